/** Outputs come back: what a run has shown is put into the cell it came from, whatever became of page and kernel. */

import { CodeCell, ICodeCellModel } from '@jupyterlab/cells';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { IDisposable } from '@lumino/disposable';
import { Signal } from '@lumino/signaling';

import { Model } from './model';
import { covers, isTrained, mended, patch } from './outputs';
import { Run, Session } from './types';
import { newestRuns } from './words';

const OPEN = ['queued', 'running', 'suspended', 'paused', 'saving'];
const LEAST = 1000; // milliseconds between two looks at a run's outputs
const KEY = 'ciuic'; // of the cell's metadata: the run whose outputs it holds in full

/** What was last put into a cell, and when to look again. */
interface Shown {
  mark: string;
  next: number;
  asking: boolean;
}

export class Outputs implements IDisposable {
  constructor(
    private _model: Model,
    private _tracker: INotebookTracker
  ) {
    _model.changed.connect(this._look, this);
    _model.ticked.connect(this._look, this);
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  dispose(): void {
    this._disposed = true;
    Signal.clearData(this);
  }

  private _look(): void {
    const wanted = new Map<string, [Session, Run]>();
    for (const session of this._model.sessions) {
      for (const [cell, run] of newestRuns(session.runs ?? [])) {
        wanted.set(cell, [session, run]);
      }
    }
    if (wanted.size === 0) {
      return;
    }
    this._tracker.forEach(panel => {
      if (!panel.context.isReady || panel.isDisposed) {
        return;
      }
      for (const cell of panel.content.widgets) {
        const found = wanted.get(cell.model.id);
        if (found && cell instanceof CodeCell) {
          this._consider(panel, cell, ...found);
        }
      }
    });
  }

  private _consider(panel: NotebookPanel, cell: CodeCell, session: Session, run: Run): void {
    const known = this._shown.get(cell) ?? { mark: '', next: 0, asking: false };
    const mark = `${run.run} ${run.state} ${OPEN.includes(run.state) ? session.last_seq : ''}`;
    if (known.mark === mark || known.asking || Date.now() < known.next || isLive(cell)) {
      return;
    }
    const full = (cell.model.getMetadata(KEY) as { run?: string } | undefined)?.run;
    if (full === run.run || !isTrained(cell.model.sharedModel.getSource(), session.name)) {
      known.mark = mark;
      this._shown.set(cell, known);
      return;
    }
    known.asking = true;
    this._shown.set(cell, known);
    void this._fetch(panel, cell, session, run).then(done => {
      known.asking = false;
      known.mark = done ? mark : known.mark;
    });
  }

  /** Put a run's outputs into its cell; false if it is to be tried again. */
  private async _fetch(panel: NotebookPanel, cell: CodeCell, session: Session, run: Run): Promise<boolean> {
    const known = this._shown.get(cell)!;
    const begun = Date.now();
    try {
      const found = await this._model.outputs(session.name, run.run);
      // a cell that was run again meanwhile, or is gone, is left alone
      if (this._disposed || cell.isDisposed || isLive(cell) || found.cell_id !== cell.model.id) {
        return true;
      }
      const ended = !OPEN.includes(found.state);
      this._put(panel, cell.model, found.outputs, ended ? run.run : null);
      setState(cell.model, found.state === 'running');
      if (ended && cell.model.executionCount === null && found.execution_count !== null) {
        cell.model.executionCount = found.execution_count;
      }
      return true;
    } catch {
      known.next = Date.now() + 10 * LEAST; // the run is of a machine that does not answer, or its log is gone
      return false;
    } finally {
      known.next = Math.max(known.next, Date.now() + Math.max(LEAST, 5 * (Date.now() - begun)));
    }
  }

  private _put(panel: NotebookPanel, model: ICodeCellModel, outputs: any[], full: string | null): void {
    const notebook = panel.context.model;
    const dirty = notebook.dirty;
    const shown = model.outputs.toJSON() as any[];
    if (!covers(shown, outputs)) {
      patch(model.outputs, mended(shown, outputs));
    }
    if (full !== null) {
      model.setMetadata(KEY, { run: full });
    } else if (!dirty) {
      notebook.dirty = false; // a run under way asks nobody to save; its end does
    }
  }

  private _shown = new WeakMap<CodeCell, Shown>();
  private _disposed = false;
}

/** Tell whether a magic in this page still shows its run in the cell. */
function isLive(cell: CodeCell): boolean {
  const future = cell.outputArea?.future;
  return Boolean(future) && !future.isDisposed;
}

/** Show `[*]` while a run goes on, where this JupyterLab can. */
function setState(model: ICodeCellModel, running: boolean): void {
  const state = running ? 'running' : 'idle';
  if ('executionState' in model && model.executionState !== state) {
    model.executionState = state;
  }
}

/** Return the session that a notebook's cells ran in: of their newest run, else the one that is named after the file. */
export function sessionOf(panel: NotebookPanel, model: Model): Session | undefined {
  const cells = new Set(panel.content.widgets.map(cell => cell.model.id));
  let best: [number, Session] | undefined;
  for (const session of model.sessions) {
    for (const run of session.runs ?? []) {
      const at = run.started_at ?? Infinity;
      if (run.cell_id !== null && cells.has(run.cell_id) && (!best || at > best[0])) {
        best = [at, session];
      }
    }
  }
  return best?.[1] ?? model.sessions.find(session => namedAfter(session.name, panel.context.path));
}

/** Tell whether a session has the name that a notebook's cells use when they give none: stem and four hex digits. */
export function namedAfter(session: string, path: string): boolean {
  const file = path.split('/').pop() ?? '';
  const stem = file
    .replace(/\.[^.]*$/, '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 48)
    .replace(/-+$/, '');
  const start = `${stem || 'notebook'}-`;
  return session.startsWith(start) && /^[0-9a-f]{4}$/.test(session.slice(start.length));
}
