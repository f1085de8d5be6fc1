/** What a quote rests on, in words. */

import { money, price, span } from './format';
import { Quote, QuotedMachine } from './types';
import { Tongue } from './words';

/** Return where an amount comes from: runs on this very type, or those on another taken as equally fast. */
export function basis(one: QuotedMachine, { trans, locale }: Tongue): string {
  const rate =
    one.price_nano_per_hour === null
      ? ''
      : trans.__('%1/h', price(one.price_nano_per_hour, one.currency, locale));
  let text = '';
  if (one.like) {
    text = trans.__('assumed as fast as %1', one.like.slice(0, 100));
  } else if (one.seconds) {
    text = trans.__('measured %1 × here, %2', one.runs, time(one.seconds[1], locale));
    if (one.billed_nano) {
      text += ` · ${trans.__('billed %1', money(one.billed_nano[1], one.currency, locale))}`;
    }
  }
  return [rate, text].filter(Boolean).join(' · ');
}

function time(seconds: number, locale: string): string {
  const short = { style: 'unit', unit: 'second', unitDisplay: 'short', maximumFractionDigits: 1 } as const;
  return seconds < 10 ? new Intl.NumberFormat(locale, short).format(seconds) : span(seconds, locale);
}

/** Return what has to be known beside the amounts: what counts, what does not, and what starts. */
export function notes(quote: Quote, { trans, locale }: Tongue): string[] {
  const found: string[] = [];
  if (quote.whole === 0) {
    found.push(trans.__('This cell has not run to its end yet.'));
  }
  if (quote.edited) {
    found.push(trans.__('The cell was changed since; these are runs of its earlier text.'));
  }
  if (quote.paused_on_the_way > 0) {
    found.push(trans.__('Through a pause, as one run: %1.', quote.paused_on_the_way));
  }
  const others = Object.values(quote.others).reduce((sum, count) => sum + count, 0);
  if (others > 0) {
    found.push(
      trans.__(
        '%1 not counted: failed, interrupted, paused still, under way, or on several machine types.',
        others
      )
    );
  }
  if (quote.machines.some(one => one.runs_now && one.cost_nano)) {
    found.push(trans.__('Where the machine runs already, only what comes on top.'));
  }
  const starts = quote.machines.filter(one => one.cost_nano && !one.runs_now).map(one => one.start_seconds);
  const known = starts.filter((seconds): seconds is number => seconds !== null);
  if (known.length > 0) {
    found.push(trans.__('With the start of a machine, %1 at most.', time(Math.max(...known), locale)));
  } else if (starts.length > 0) {
    found.push(trans.__('Without the start of a machine: it was never measured.'));
  }
  return [...found, ...quote.unasked.map(why => trans.__('Left out: %1', why.slice(0, 300)))];
}
