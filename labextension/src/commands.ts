/** Commands: what palette, menu and shortcut do. None goes through the kernel. */

import { JupyterFrontEnd } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';

import { meterIcon, pauseIcon, resumeIcon } from './icons';
import { Model, possible } from './model';
import { FIRST_CELLS } from './panel';
import { Scene } from './parts';
import { canQuote, quoteCell } from './quote';
import { oneClick } from './toolbar';
import { Action, Session } from './types';

export const COMMANDS = {
  open: 'ciuic:open',
  toggle: 'ciuic:toggle',
  pause: 'ciuic:pause',
  resume: 'ciuic:resume',
  release: 'ciuic:release',
  start: 'ciuic:start',
  quote: 'ciuic:quote'
};

export interface CommandOptions {
  app: JupyterFrontEnd;
  scene: Scene;
  /** Return the session meant: of the notebook in front, else the only one there is. */
  meant: () => Session | undefined;
  open: () => void;
  /** The notebooks whose cells can be quoted; null where there are none. */
  tracker: INotebookTracker | null;
}

export function addCommands({ app, scene, meant, open, tracker }: CommandOptions): void {
  const { trans, model } = scene;
  const add = app.commands.addCommand.bind(app.commands);
  const session = (args: any) => (typeof args.session === 'string' ? model.find(args.session) : meant());
  const can = (args: any, action: Action) => {
    const found = session(args);
    return found !== undefined && model.fresh && possible(found).includes(action);
  };
  const act = (args: any, action: Action) => {
    const found = session(args);
    return found ? tell(model, found.name, action) : Promise.resolve(false);
  };
  const plain = (action: Action, label: string, icon?: any) => ({
    label,
    icon,
    isEnabled: (args: any) => can(args, action),
    execute: (args: any) => act(args, action)
  });
  add(COMMANDS.open, { label: trans.__('Show sessions and costs'), icon: meterIcon, execute: open });
  add(COMMANDS.pause, plain('pause', trans.__('Pause the session'), pauseIcon));
  add(COMMANDS.resume, plain('resume', trans.__('Resume the session'), resumeIcon));
  add(COMMANDS.release, plain('release', trans.__('Release the machine now')));
  add(COMMANDS.toggle, {
    label: trans.__('Pause or resume the session'),
    isEnabled: args => {
      const found = session(args);
      return found !== undefined && model.fresh && oneClick(found) !== null;
    },
    execute: args => {
      const found = session(args);
      const does = found ? oneClick(found) : null;
      return does ? act(args, does) : Promise.resolve(false);
    }
  });
  add(COMMANDS.start, {
    label: trans.__('Start the control plane'),
    isEnabled: () => model.plane !== null && !model.plane.up && !model.starting,
    execute: () => model.startPlane()
  });
  // a context menu is of the cell under the mouse, which need not be the selected one
  const cell = (args: any) => {
    if (!args.context) {
      return tracker?.activeCell;
    }
    const node = app.contextMenuHitTest(found => found.classList.contains('jp-CodeCell'));
    return tracker?.currentWidget?.content.widgets.find(one => one.node === node);
  };
  add(COMMANDS.quote, {
    label: trans.__('Quote this cell'),
    caption: trans.__('What it would cost on each machine type; nothing is run'),
    icon: meterIcon,
    isEnabled: args => model.fresh && canQuote(cell(args)),
    isVisible: args => canQuote(cell(args)),
    execute: args => {
      const [panel, quoted] = [tracker?.currentWidget, cell(args)];
      return panel && quoted ? quoteCell(scene, panel, quoted) : undefined;
    }
  });
  model.changed.connect(() => app.commands.notifyCommandChanged());
}

/** Act; who pressed a key without the panel in view is told of a refusal. */
async function tell(model: Model, name: string, action: Action): Promise<boolean> {
  const done = await model.act(name, action);
  if (!done && model.error(name)) {
    Notification.error(model.error(name).slice(0, 300), { autoClose: 8000 });
  }
  return done;
}

/** Put the first cells below the selected one of the notebook in front. */
export function insertFirst(tracker: INotebookTracker | null): void {
  const notebook = tracker?.currentWidget?.content;
  if (!notebook?.model) {
    return;
  }
  for (const code of FIRST_CELLS) {
    const active = notebook.activeCell;
    if (!active || active.model.type !== 'code' || active.model.sharedModel.getSource().trim()) {
      NotebookActions.insertBelow(notebook);
    }
    notebook.activeCell?.model.sharedModel.setSource(code);
  }
}
