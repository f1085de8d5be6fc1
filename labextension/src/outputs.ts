/** A cell's outputs, compared and mended: nothing lost, nothing doubled. Pure functions on nbformat's plain data. */

import { Output } from './types';

/** What a cell's output model can do; JupyterLab's `IOutputAreaModel` can. */
export interface OutputList {
  readonly length: number;
  add(output: any): number;
  set(index: number, output: any): void;
  fromJSON(outputs: any[]): void;
  toJSON(): any[];
}

/** Tell whether an output is the meter's, which stands above what the cell itself shows. */
export function isMeter(output: Output): boolean {
  return joined(output.data?.['text/html']).includes('ciuic-card');
}

/** Return the session that a cell of ours names, '' if it names none, null if it is not run by us. */
export function sessionIn(source: string): string | null {
  const found = /^\s*(?:#[^\n]*\n\s*)*%%ciuic_train\b([^\n]*)/.exec(source);
  const named = found && /--session[=\s]+(\S+)/.exec(found[1]);
  return found === null ? null : named ? named[1].replace(/^(["'])(.*)\1$/, '$2') : '';
}

/** Return what of a cell's source runs in its session: all behind the magic's line. */
export function cellBody(source: string): string {
  const from = source.indexOf('%%ciuic_train');
  const end = source.indexOf('\n', Math.max(0, from));
  return from < 0 || end < 0 ? '' : source.slice(end + 1);
}

/** Tell whether a cell's code runs in a session; a cell that became a local one keeps its own outputs. */
export function isTrained(source: string, session: string): boolean {
  const named = sessionIn(source);
  return named === '' || named === session;
}

/** Tell whether `shown` holds all that a run has put out, in order; more, such as an error of ours, does no harm. */
export function covers(shown: Output[], run: Output[]): boolean {
  const [have, want] = [merged(shown.filter(output => !isMeter(output))), merged(run)];
  let at = 0;
  for (const output of want) {
    while (at < have.length && !holds(have[at], output)) {
      at += 1;
    }
    if (at >= have.length) {
      return false;
    }
    at += 1;
  }
  return true;
}

/** Return what a cell should show: its meter, then the run's outputs. */
export function mended(shown: Output[], run: Output[]): Output[] {
  return [...shown.filter(isMeter), ...merged(run)];
}

/** Make `list` show `wanted`, touching only what differs. */
export function patch(list: OutputList, wanted: Output[]): void {
  const shown: Output[] = list.toJSON();
  if (shown.length > wanted.length) {
    list.fromJSON(wanted);
    return;
  }
  for (let at = 0; at < wanted.length; at++) {
    if (at >= list.length) {
      list.add(wanted[at]);
    } else if (!same(shown[at], wanted[at])) {
      list.set(at, wanted[at]);
    }
  }
  if (list.length > wanted.length) {
    list.fromJSON(wanted);
  }
}

function holds(have: Output, want: Output): boolean {
  if (have.output_type === 'stream' && want.output_type === 'stream') {
    return have.name === want.name && have.text.includes(want.text);
  }
  return same(have, want);
}

function same(a: Output, b: Output): boolean {
  return essence(a) === essence(b);
}

/** What makes two outputs the same to look at. */
function essence(output: Output): string {
  switch (output.output_type) {
    case 'stream':
      return `stream ${output.name} ${settled(joined(output.text))}`;
    case 'error':
      return `error ${output.ename} ${output.evalue}`;
    default: {
      const data: Record<string, unknown> = output.data ?? {};
      const sorted = Object.keys(data)
        .sort()
        .map(mime => [mime, Array.isArray(data[mime]) ? joined(data[mime]) : data[mime]]);
      return `display ${JSON.stringify(sorted)}`;
    }
  }
}

/** Join neighbours of one stream, as a cell does. */
function merged(outputs: Output[]): Output[] {
  const found: Output[] = [];
  for (const output of outputs) {
    const last = found[found.length - 1];
    if (output.output_type !== 'stream') {
      found.push(output);
    } else if (last?.output_type === 'stream' && last.name === output.name) {
      found[found.length - 1] = { ...last, text: settled(last.text + joined(output.text)) };
    } else {
      found.push({ ...output, text: settled(joined(output.text)) });
    }
  }
  return found;
}

/** nbformat lets text be a list of lines. */
function joined(text: unknown): string {
  return Array.isArray(text) ? text.join('') : typeof text === 'string' ? text : '';
}

/** Return text as it stands after its carriage returns: a progress bar's last picture. */
export function settled(text: string): string {
  if (!text.includes('\r')) {
    return text;
  }
  return text
    .replace(/\r+\n/g, '\n')
    .split('\n')
    .map(line => {
      const parts = line.split('\r');
      // a return at the end has overwritten nothing yet
      const open = parts.length > 1 && parts[parts.length - 1] === '';
      const shown = (open ? parts.slice(0, -1) : parts).reduce(
        (below, part) => part + below.slice(part.length)
      );
      return open ? `${shown}\r` : shown;
    })
    .join('\n');
}
