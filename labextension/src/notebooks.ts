/** Outputs come back: what a run has shown is put into the cell it came from, whatever became of page and kernel. */

import { CodeCell, ICodeCellModel } from '@jupyterlab/cells';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { IDisposable } from '@lumino/disposable';
import { Signal } from '@lumino/signaling';

import { Model } from './model';
import { covers, isTrained, mended, patch, sessionIn } from './outputs';
import { Run, Session } from './types';
import { begun, newestRuns } from './words';

const OPEN = ['queued', 'running', 'suspended', 'paused', 'saving'];
const LEAST = 1000; // milliseconds between two looks at a run's outputs
const SETTLED = 10; // seconds after a run's end in which its magic may still be showing the last of it
const SAVED = 2; // seconds a file may be newer than a run's end, and still lack it

/** What was last put into a cell, and when to look again. */
interface Shown {
  mark: string;
  next: number;
  again: number;
  asking: boolean;
  /** The run was seen under way in this page. */
  followed: string;
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
    if (!this._model.sessions.some(session => session.runs?.length)) {
      return;
    }
    this._tracker.forEach(panel => {
      if (!panel.context.isReady || panel.isDisposed) {
        return;
      }
      const wanted = new Map<string, [Session, Run]>();
      for (const session of sessionsOf(panel, this._model)) {
        for (const [cell, run] of newestRuns(session.runs ?? [])) {
          const known = wanted.get(cell);
          if (!known || begun(run) >= begun(known[1])) {
            wanted.set(cell, [session, run]);
          }
        }
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
    const known = this._shown.get(cell) ?? {
      mark: '',
      next: 0,
      again: Infinity,
      asking: false,
      followed: ''
    };
    this._shown.set(cell, known);
    const open = OPEN.includes(run.state);
    if (open) {
      known.followed = run.run;
    }
    const mark = `${run.run} ${run.state} ${open ? session.last_seq : ''}`;
    // a session's own news may leave out how far its outputs are: a run under way is looked at now and then
    const stale = known.mark !== mark || Date.now() >= known.again;
    if (!stale || known.asking || Date.now() < known.next || this._isShowing(cell, run)) {
      return;
    }
    const left = !open && known.followed !== run.run && isSavedSince(panel, run);
    if (left || !isTrained(cell.model.sharedModel.getSource(), session.name)) {
      known.mark = mark;
      return;
    }
    known.asking = true;
    void this._fetch(panel, cell, session, run).then(done => {
      known.asking = false;
      known.mark = done ? mark : known.mark;
    });
  }

  /** Put a run's outputs into its cell; false if it is to be tried again. */
  private async _fetch(panel: NotebookPanel, cell: CodeCell, session: Session, run: Run): Promise<boolean> {
    const known = this._shown.get(cell)!;
    const asked = Date.now();
    try {
      const found = await this._model.outputs(session.name, run.run);
      // a cell that was run again meanwhile, or is gone, is left alone
      if (
        this._disposed ||
        cell.isDisposed ||
        this._isShowing(cell, run) ||
        found.cell_id !== cell.model.id
      ) {
        return true;
      }
      const ended = !OPEN.includes(found.state);
      this._put(panel, cell.model, found.outputs, ended);
      setState(cell.model, found.state === 'running');
      if (ended && cell.model.executionCount === null && found.execution_count !== null) {
        cell.model.executionCount = found.execution_count;
      }
      return true;
    } catch {
      known.next = Date.now() + 10 * LEAST; // the run is of a machine that does not answer, or its log is gone
      return false;
    } finally {
      const took = Date.now() - asked;
      known.next = Math.max(known.next, Date.now() + Math.max(LEAST, 5 * took));
      known.again = run.state === 'running' ? Date.now() + Math.max(3 * LEAST, 5 * took) : Infinity;
    }
  }

  /** Tell whether a magic of this page's kernel shows the run in the cell, so that nothing is shown twice.

  A cell keeps its line to the kernel when it has ended, for what comes late; a while after the run's end it is over. */
  private _isShowing(cell: CodeCell, run: Run): boolean {
    const future = cell.outputArea?.future;
    if (!future || future.isDisposed) {
      return false;
    }
    const busy = cell.model.executionCount === null;
    return busy || run.ended_at === null || this._model.clock.now() < run.ended_at + SETTLED;
  }

  private _put(panel: NotebookPanel, model: ICodeCellModel, outputs: any[], ended: boolean): void {
    const notebook = panel.context.model;
    const dirty = notebook.dirty;
    const shown = model.outputs.toJSON() as any[];
    if (!covers(shown, outputs)) {
      patch(model.outputs, mended(shown, outputs));
    }
    if (!ended && !dirty) {
      notebook.dirty = false; // a run under way asks nobody to save; its end does
    }
  }

  private _shown = new WeakMap<CodeCell, Shown>();
  private _disposed = false;
}

/** Tell whether a notebook was saved after a run's end: what its cell shows, or no longer does, is as it was left. */
function isSavedSince(panel: NotebookPanel, run: Run): boolean {
  const saved = Date.parse(panel.context.contentsModel?.last_modified ?? '') / 1000;
  return typeof run.ended_at === 'number' && saved > run.ended_at + SAVED;
}

/** Show `[*]` while a run goes on, where this JupyterLab can. */
function setState(model: ICodeCellModel, running: boolean): void {
  const state = running ? 'running' : 'idle';
  if ('executionState' in model && model.executionState !== state) {
    model.executionState = state;
  }
}

/** Return the sessions of a notebook: those its cells name, and the one that is named after its file.

A run's cell id alone would not do: a copy of a notebook has the same ones. */
function sessionsOf(panel: NotebookPanel, model: Model): Session[] {
  const named = new Set<string | null>(['default']);
  for (const cell of panel.content.widgets) {
    named.add(sessionIn(cell.model.sharedModel.getSource()));
  }
  return model.sessions.filter(({ name }) => named.has(name) || namedAfter(name, panel.context.path));
}

/** Return the session that a notebook's cells ran in: of their newest run, else the one that is named after the file. */
export function sessionOf(panel: NotebookPanel, model: Model): Session | undefined {
  const cells = new Set(panel.content.widgets.map(cell => cell.model.id));
  const mine = sessionsOf(panel, model);
  let best: [number, Session] | undefined;
  for (const session of mine) {
    for (const run of session.runs ?? []) {
      if (run.cell_id !== null && cells.has(run.cell_id) && (!best || begun(run) > best[0])) {
        best = [begun(run), session];
      }
    }
  }
  return best?.[1] ?? mine.find(session => namedAfter(session.name, panel.context.path));
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
