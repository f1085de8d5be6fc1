import { describe, expect, test } from 'vitest';

import { covers, isTrained, mended, OutputList, patch, settled } from '../src/outputs';
import { Output } from '../src/types';

const text = (value: string, name = 'stdout'): Output => ({ output_type: 'stream', name, text: value });
const image = (data: string): Output => ({
  output_type: 'display_data',
  data: { 'image/png': data },
  metadata: {}
});
const meter: Output = {
  output_type: 'display_data',
  data: { 'text/html': ['<div class="ciuic-card">', '</div>'] }
};
const paused: Output = { output_type: 'error', ename: 'CellPaused', evalue: 'paused', traceback: [] };

class List implements OutputList {
  touched: string[] = [];
  constructor(public items: Output[]) {}
  get length(): number {
    return this.items.length;
  }
  add(output: Output): number {
    this.touched.push('add');
    return this.items.push(output);
  }
  set(index: number, output: Output): void {
    this.touched.push(`set ${index}`);
    this.items[index] = output;
  }
  fromJSON(outputs: Output[]): void {
    this.touched.push('all');
    this.items = [...outputs];
  }
  toJSON(): Output[] {
    return [...this.items];
  }
}

describe('a cell that shows all of a run is left alone', () => {
  test.each<[string, Output[], Output[]]>([
    ['nothing was put out', [], []],
    ['the same', [text('a\nb\n')], [text('a\nb\n')]],
    ['cut otherwise', [text('a\nb\n')], [text('a\n'), text('b\n')]],
    ['lines as a list', [{ ...text(''), text: ['a\n', 'b\n'] }], [text('a\nb\n')]],
    ['under its meter, with our error', [meter, text('a\n'), paused], [text('a\n')]],
    ['behind a line of ours', [text('resuming session s\na\n')], [text('a\n')]],
    ['pictures', [text('a'), image('1'), image('2')], [text('a'), image('1'), image('2')]],
    [
      'another count',
      [{ output_type: 'execute_result', data: { 'text/plain': '7' }, execution_count: 3 }],
      [{ output_type: 'execute_result', data: { 'text/plain': '7' }, execution_count: 1, metadata: {} }]
    ]
  ])('%s', (_, shown, run) => expect(covers(shown, run)).toBe(true));
});

describe('a cell that lacks something is not', () => {
  test.each<[string, Output[], Output[]]>([
    ['all', [], [text('a\n')]],
    ['the end', [text('a\n')], [text('a\nb\n')]],
    ['a picture', [image('1')], [image('1'), image('2')]],
    ['a picture twice', [image('1')], [image('1'), image('1')]],
    ['the order', [image('2'), image('1')], [image('1'), image('2')]],
    ['the other stream', [text('a')], [text('a', 'stderr')]]
  ])('%s', (_, shown, run) => expect(covers(shown, run)).toBe(false));
});

test('mending keeps the meter, drops the pause, and doubles nothing', () => {
  const list = new List([meter, text('a\n'), paused]);
  patch(list, mended(list.items, [text('a\n'), text('b\n'), image('1')]));
  expect(list.items).toEqual([meter, text('a\nb\n'), image('1')]);
  list.touched = [];
  patch(list, mended(list.items, [text('a\nb\n'), image('1')]));
  expect(list.touched).toEqual([]);
  patch(list, mended(list.items, [text('a\nb\n'), image('1'), text('c')]));
  expect(list.touched).toEqual(['add']);
});

test('what a run took back goes', () => {
  const list = new List([image('1'), image('2')]);
  patch(list, mended(list.items, [image('2')]));
  expect(list.items).toEqual([image('2')]);
});

test('a progress bar is its last picture', () => {
  expect(settled('10%\r20%\r100%')).toBe('100%');
  expect(settled('100%\r5')).toBe('500%');
  expect(settled('50%\r')).toBe('50%\r');
  expect(settled('a\r\nb\n')).toBe('a\nb\n');
  expect(covers([text('3/3\ndone\n')], [text('1/3\r2/3\r'), text('3/3\ndone\n')])).toBe(true);
});

test('only cells that we run are ours', () => {
  expect(isTrained('%%ciuic_train --budget 5\nx', 's')).toBe(true);
  expect(isTrained('# note\n%%ciuic_train\nx', 's')).toBe(true);
  expect(isTrained('%%ciuic_train --session s\nx', 's')).toBe(true);
  expect(isTrained('%%ciuic_train --session other\nx', 's')).toBe(false);
  expect(isTrained('x = 1', 's')).toBe(false);
  expect(isTrained('%%ciuic_trainer\nx', 's')).toBe(false);
});
