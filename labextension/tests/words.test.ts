// @vitest-environment jsdom
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Gettext } from '@jupyterlab/translation';
import { describe, expect, test } from 'vitest';

import { session } from './server';
import {
  adviceText,
  budgetText,
  forecastText,
  lineText,
  newestRuns,
  stateText,
  stepText,
  stoppedText
} from '../src/words';

const root = join(__dirname, '..');
const tongue = { trans: new Gettext() as any, locale: 'en-US' };

function strings(): string[] {
  const found = new Set<string>();
  for (const file of readdirSync(join(root, 'src'))) {
    const source = readFileSync(join(root, 'src', file), 'utf8');
    for (const [, single, double] of source.matchAll(/trans\s*\.__\(\s*(?:'((?:[^'\\]|\\.)*)'|"([^"]*)")/g)) {
      found.add(single ?? double);
    }
  }
  return [...found].sort();
}

describe.each(['fr_FR', 'zh_CN'])('%s', language => {
  const path = join(root, '..', 'ciuic_jupyter', 'locale', language, 'LC_MESSAGES', 'ciuic_jupyter.json');
  const { '': head, ...texts } = JSON.parse(readFileSync(path, 'utf8'));

  test('has every text of the panel, and none that is gone', () => {
    expect(Object.keys(texts).sort()).toEqual(strings());
    expect(head.language).toBe(language.replace('_', '-')); // the server refuses it otherwise
  });

  test('keeps the places of names and numbers', () => {
    const places = (text: string) => (text.match(/%\d/g) ?? []).sort();
    for (const [text, [translated]] of Object.entries<[string]>(texts)) {
      expect([text, places(translated)]).toEqual([text, places(text)]);
    }
  });
});

test('each step of a pause is said', () => {
  const says = (changes: object) => stepText(session(changes), tongue);
  const step = (name: string | null, fraction: number | null = null) => ({
    progress: { step: name as any, fraction, stopped_at: null, last_cost_nano: null }
  });
  expect(says({})).toBe('');
  expect(says({ pause_pending: true, busy: true })).toBe('Pausing at the next loop turn');
  expect(says({ pause_pending: true })).toBe('Pausing');
  expect(says({ state: 'saving', ...step('saving', 0.4) })).toBe('Saving 40%');
  expect(says({ state: 'saving', ...step('verifying') })).toBe('Verifying');
  expect(says({ state: 'stopping', ...step('releasing') })).toBe('Releasing');
  expect(says({ state: 'stopping' })).toBe('Releasing'); // of a server that tells no steps
});

test('advice says how sure its amount is', () => {
  const says = (kind: string, sure: string) =>
    adviceText({ kind, sure, saves_nano: 120_000_000 }, 'USD', tongue);
  expect(says('pauses not used', 'exact')).toBe('Could cost less: pauses not used, $0.1200');
  expect(says('gpu waits for data', 'at most')).toBe(
    'Could cost less: the GPU waits for data, at most $0.1200'
  );
  expect(says('of a newer version', 'about')).toBe('Could cost less: of a newer version, about $0.1200');
});

test('a pause ends with the moment it stopped and what it had cost', () => {
  const progress = { step: 'stopped' as const, fraction: null, stopped_at: 1000, last_cost_nano: 13_200_000 };
  const paused = session({ state: 'paused', progress });
  expect(stoppedText(paused, 1001, tongue)).toMatch(/^stopped at .*:40.*, \$0\.0132$/);
  expect(stoppedText(session({ progress }), 1001, tongue)).toBe('');
  expect(lineText({ ...paused, checkpoint: { at: 1000, bytes: 2_500_000 } }, 1001, tongue)).toMatch(
    /2\.5 MB saved$/
  );
});

test('an idle session counts down, a kept one says until when', () => {
  const idle = { verdict: 'idle', release_at: 1125, reason: 'all quiet' };
  expect(lineText(session({ idle }), 1000, tongue)).toBe('Idle; saved and released in 2:05');
  expect(lineText(session({ idle, kept_until: 2000 }), 1000, tongue)).toMatch(/^Kept until /);
  expect(lineText(session({ idle: null }), 1000, tongue)).toBe('No release foreseen');
});

test('a running cell says how long', () => {
  const running = session({ busy: true, run_started_at: 900, queued: 2 });
  expect(lineText(running, 1000, tongue)).toBe('for 1:40 · 2 more waiting');
  expect(lineText({ ...running, queued: 0, forecast: { fraction: 0.5, ends_at: 1190 } }, 1000, tongue)).toBe(
    'for 1:40 · about 3 min left'
  );
  expect(stateText(session({ state: 'of tomorrow' }), tongue)).toBe('of tomorrow');
});

test('a forecast says its bounds, or after a while why there is none', () => {
  const running = session({ busy: true, run_started_at: 900 });
  const told = { fraction: 0.5, ends_at: 1190, total_nano: 42e7, low_nano: 4e8, high_nano: 47e7, follow: 0 };
  const says = (forecast: object, now = 1000) =>
    forecastText({ ...running, forecast: { fraction: null, ends_at: null, ...forecast } }, now, tongue);
  expect(says(told)).toBe('Forecast $0.42 ($0.40 to $0.47)');
  expect(says({ ...told, follow: 2 })).toBe('Forecast $0.42 ($0.40 to $0.47), without the loops that follow');
  expect(says({ why: 'no loop is under way' })).toBe('No forecast: no loop is under way');
  expect(says({ why: 'no loop is under way' }, 910)).toBe('');
  expect(forecastText({ ...running, busy: false, forecast: told }, 1000, tongue)).toBe('');
  expect(budgetText({ ...running, forecast: { ...told, budget_seconds: 490 } }, tongue)).toBe(
    'Will reach the budget in about 8 min'
  );
  expect(budgetText({ ...running, forecast: { ...told, budget_seconds: null } }, tongue)).toBe('');
});

test('the newest run of each cell is its own', () => {
  const run = (name: string, cell: string | null, at: number | null) => ({
    run: name,
    cell_id: cell,
    state: 'ok',
    started_at: at,
    ended_at: null
  });
  const found = newestRuns([
    run('b', 'x', 2),
    run('a', 'x', 1),
    run('c', null, 3),
    run('d', 'y', null),
    run('e', 'y', 9)
  ]);
  expect([...found].map(([cell, { run }]) => [cell, run])).toEqual([
    ['x', 'b'],
    ['y', 'd']
  ]);
});
