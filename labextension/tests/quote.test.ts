// @vitest-environment jsdom
import { Gettext } from '@jupyterlab/translation';
import { expect, test } from 'vitest';

import { session } from './server';
import { cellBody } from '../src/outputs';
import { basis, notes } from '../src/quoting';
import { Budget, Quote, QuotedMachine } from '../src/types';
import { budgetName, shownBudgets } from '../src/words';

const tongue = { trans: new Gettext() as any, locale: 'en-US' };

function machine(changes: Partial<QuotedMachine> = {}): QuotedMachine {
  return {
    instance: 'gpu1',
    currency: 'USD',
    offered: true,
    price_nano_per_hour: 900_000_000,
    runs: 3,
    billed_nano: [1e9, 2e9, 3e9],
    seconds: [60, 110, 300],
    like: null,
    runs_now: false,
    start_seconds: 42,
    cost_nano: [1e9, 2e9, 3e9],
    hour_nano: 900_000_000,
    ...changes
  };
}

function quote(changes: Partial<Quote> = {}): Quote {
  return {
    text: 'fit()',
    edited: false,
    whole: 3,
    paused_on_the_way: 0,
    others: {},
    machines: [machine()],
    unasked: [],
    ...changes
  };
}

test('a quote says what was measured and what is assumed', () => {
  expect(basis(machine(), tongue)).toBe('$0.90/h · measured 3 × here, 1 min 50 sec · billed $2.0000');
  expect(basis(machine({ seconds: [0.2, 0.2, 0.2], billed_nano: null }), tongue)).toContain('0.2 sec');
  expect(basis(machine({ like: 'gpu2' }), tongue)).toBe('$0.90/h · assumed as fast as gpu2');
  expect(basis(machine({ seconds: null, billed_nano: null }), tongue)).toBe('$0.90/h');
  expect(basis(machine({ price_nano_per_hour: null }), tongue)).not.toContain('/h');
});

test('a quote tells what is not in it', () => {
  expect(notes(quote(), tongue)).toEqual(['With the start of a machine, 42 sec at most.']);
  const machines = [machine({ start_seconds: null }), machine({ runs_now: true })];
  const odd = notes(
    quote({ edited: true, paused_on_the_way: 1, others: { error: 1, moved: 2 }, machines }),
    tongue
  );
  expect(odd.map(text => text.split(' ').slice(0, 3).join(' '))).toEqual([
    'The cell was',
    'Through a pause,',
    '3 not counted:',
    'Where the machine',
    'Without the start'
  ]);
  const none = quote({ whole: 0, machines: [machine({ cost_nano: null })], unasked: ['the cloud is away'] });
  expect(notes(none, tongue)).toEqual([
    'This cell has not run to its end yet.',
    'Left out: the cloud is away'
  ]);
});

test('what is quoted of a cell is all behind the line of its magic', () => {
  expect(cellBody('%%ciuic_train --budget 5\nfit()\nx\n')).toBe('fit()\nx\n');
  expect(cellBody('# first\n%%ciuic_train\nfit()')).toBe('fit()');
  expect(cellBody('%%ciuic_train')).toBe('');
  expect(cellBody('fit()\n')).toBe('');
});

test('budgets that all share are drawn where they are eaten, or told of', () => {
  const budget = (scope: string, mark = 0): Budget => {
    return { key: scope, scope, budget_nano: 1e9, spent_nano: 1, rate_nano_per_hour: 0, mark };
  };
  const budgets = [budget('run'), budget('day'), budget('session'), budget('month', 50)];
  const shown = (rate: number) =>
    shownBudgets(session({ rate_nano_per_hour: rate, budgets })).map(one => one.scope);
  expect(shown(1)).toEqual(['run', 'day', 'session', 'month']);
  expect(shown(0)).toEqual(['run', 'session', 'month']);
  expect(shownBudgets(session())).toEqual([]);
  expect(budgets.map(one => budgetName(one, tongue))).toEqual([
    'This cell',
    'Today',
    'This session',
    'This month'
  ]);
  expect(budgetName(budget('x'.repeat(99)), tongue)).toHaveLength(40);
});
