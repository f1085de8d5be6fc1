/** Money, times and sizes as text for people, in their locale. Amounts are nano-units of a currency. */

const NANO = 1e9;
const formats = new Map<string, Intl.NumberFormat>();

/** Return the decimals that show an amount: two at least, more for small ones, nine for what is next to nothing. */
export function placesOf(nano: number): number {
  const size = Math.abs(nano);
  return size === 0 || size >= 100 * NANO ? 2 : size >= NANO / 1000 ? 4 : size >= 1000 ? 6 : 9;
}

/** Return an amount as the locale writes it: `$0.0132`. */
export function money(nano: number, currency: string, locale: string, places = placesOf(nano)): string {
  if (!Number.isFinite(nano)) {
    return '–';
  }
  return moneyFormat(currency, locale, places).format(nano / NANO);
}

/** Return a price an hour with no more decimals than it has, two at least: `$0.90`, `$0.0003`. */
export function price(nano: number, currency: string, locale: string): string {
  const digits = String(Math.round(Math.abs(nano)) % NANO)
    .padStart(9, '0')
    .replace(/0+$/, '');
  return money(nano, currency, locale, Math.max(2, digits.length));
}

function moneyFormat(currency: string, locale: string, places: number): Intl.NumberFormat {
  const key = `${currency} ${locale} ${places}`;
  let format = formats.get(key);
  if (format === undefined) {
    const digits = { minimumFractionDigits: places, maximumFractionDigits: places };
    try {
      format = new Intl.NumberFormat(locale, {
        style: 'currency',
        currency,
        currencyDisplay: 'narrowSymbol',
        ...digits
      });
    } catch {
      // no currency code of ISO 4217, such as credits: the number, and what it counts
      const plain = new Intl.NumberFormat(safeLocale(locale), digits);
      format = { format: (value: number) => `${plain.format(value)} ${currency}` } as Intl.NumberFormat;
    }
    formats.set(key, format);
  }
  return format;
}

/** Return a locale that Intl knows; the browser's where it does not. */
export function safeLocale(locale: string): string {
  try {
    return Intl.getCanonicalLocales(locale.replace('_', '-'))[0] ?? 'en-US';
  } catch {
    return 'en-US';
  }
}

/** Return seconds as a clock counts them: `0:07`, `12:03`, `1:02:09`; never below zero. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value: number) => String(value).padStart(2, '0');
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** Return a length of time in its two largest units: `42 s`, `3 min 10 s`, `2 h 5 min`, `3 d 4 h`. */
export function span(seconds: number, locale: string): string {
  const whole = Math.max(0, Math.round(seconds));
  const unit = (value: number, name: string) =>
    new Intl.NumberFormat(locale, { style: 'unit', unit: name, unitDisplay: 'short' }).format(value);
  const parts: [number, string][] = [
    [Math.floor(whole / 86400), 'day'],
    [Math.floor(whole / 3600) % 24, 'hour'],
    [Math.floor(whole / 60) % 60, 'minute'],
    [whole % 60, 'second']
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) {
    return unit(0, 'second');
  }
  return parts
    .slice(first, first + 2)
    .filter(([value]) => value > 0)
    .map(([value, name]) => unit(value, name))
    .join(' ');
}

/** Return a time of day, with the date when it was not within `now`'s last 20 hours. */
export function moment(at: number, now: number, locale: string): string {
  const date = new Date(at * 1000);
  const time: Intl.DateTimeFormatOptions = { hour: '2-digit', minute: '2-digit', second: '2-digit' };
  if (Math.abs(now - at) < 20 * 3600) {
    return date.toLocaleTimeString(locale, time);
  }
  return date.toLocaleString(locale, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' });
}

/** Return a share such as 0.4 as `40%`, the way the locale writes it. */
export function percent(share: number, locale: string): string {
  return new Intl.NumberFormat(locale, { style: 'percent', maximumFractionDigits: 0 }).format(share);
}

/** Return a number of bytes as `12.3 MB`. */
export function bytes(count: number, locale: string): string {
  const [size, unit] =
    count >= 1e9 ? [1e9, 'gigabyte'] : count >= 1e6 ? [1e6, 'megabyte'] : [1e3, 'kilobyte'];
  return new Intl.NumberFormat(locale, {
    style: 'unit',
    unit: unit as string,
    unitDisplay: 'short',
    maximumFractionDigits: 1
  }).format(count / (size as number));
}

/** Cut text of no known length to what a tooltip can hold. */
export function clip(text: string, most = 200): string {
  const shown = Array.from(text.slice(0, 2 * most));
  return shown.length <= most && text.length <= 2 * most ? text : `${shown.slice(0, most).join('')}…`;
}
