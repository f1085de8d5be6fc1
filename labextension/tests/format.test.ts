import { expect, test } from 'vitest';

import { bytes, clip, clock, moment, money, placesOf, price, safeLocale, span } from '../src/format';

test.each([
  [0, '$0.00'],
  [1, '$0.000000001'],
  [999, '$0.000000999'],
  [13_200_000, '$0.0132'],
  [150, '$0.000000150'],
  [25_000, '$0.000025'],
  [1_234_500_000, '$1.2345'],
  [99_999_000_000, '$99.9990'],
  [100_000_000_000, '$100.00'],
  [1e18, '$1,000,000,000.00'],
  [-13_200_000, '-$0.0132']
])('%d nano-dollars read %s', (nano, text) => {
  expect(money(nano, 'USD', 'en-US')).toBe(text);
});

test('money is written as the locale writes it, in its own currency', () => {
  expect(money(1_234_560_000_000, 'EUR', 'fr-FR')).toMatch(/^1\s234,56\s€$/u);
  expect(money(1_500_000_000, 'CNY', 'zh-CN')).toBe('¥1.5000');
  expect(money(1_500_000_000, 'GPU credits', 'en-US')).toBe('1.5000 GPU credits');
  expect(money(Number.NaN, 'USD', 'en-US')).toBe('–');
});

test.each([
  [900_000_000, '$0.90'],
  [300_000, '$0.0003'],
  [3_600_000_000, '$3.60'],
  [1, '$0.000000001'],
  [0, '$0.00']
])('a price of %d has the decimals it needs', (nano, text) => {
  expect(price(nano, 'USD', 'en-US')).toBe(text);
});

test('an amount keeps its number of decimals while it grows', () => {
  expect([0, 1e5, 1e6, 5e9, 1e11].map(placesOf)).toEqual([2, 6, 4, 4, 2]);
});

test('times', () => {
  expect([-5, 0, 7.9, 723, 3729].map(clock)).toEqual(['0:00', '0:00', '0:07', '12:03', '1:02:09']);
  expect([0, 42, 190, 3600, 7500, 273600].map(seconds => span(seconds, 'en-US'))).toEqual([
    '0 sec',
    '42 sec',
    '3 min 10 sec',
    '1 hr',
    '2 hr 5 min',
    '3 days 4 hr'
  ]);
  expect(moment(1000, 1100, 'en-GB')).toMatch(/^\d\d:\d\d:40$/);
  expect(moment(1000, 1000 + 86400 * 30, 'en-GB')).toMatch(/Jan/);
});

test('sizes, and text of any length', () => {
  expect(bytes(123_456_789, 'en-US')).toBe('123.5 MB');
  expect(clip('short')).toBe('short');
  expect(clip('x'.repeat(10_000)).length).toBe(201);
  expect(clip('🙂'.repeat(10_000))).toBe('🙂'.repeat(200) + '…');
});

test('a locale nobody knows is English', () => {
  expect([safeLocale('zh_CN'), safeLocale('fr-FR'), safeLocale('default!')]).toEqual([
    'zh-CN',
    'fr-FR',
    'en-US'
  ]);
});
