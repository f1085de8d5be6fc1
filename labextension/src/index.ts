/** The extension: one model a page, shown by panel, notebook button and status bar. */

import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, IToolbarWidgetRegistry } from '@jupyterlab/apputils';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';

import { addCommands, COMMANDS, insertFirst } from './commands';
import { safeLocale } from './format';
import { Model } from './model';
import { Outputs, sessionOf } from './notebooks';
import { CiuicPanel } from './panel';
import { Scene } from './parts';
import { NotebookButton, onlyOne, StatusItem } from './toolbar';

const ID = 'ciuic-jupyter:plugin';

const plugin: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Sessions, their cost, and one-click pause',
  autoStart: true,
  optional: [
    ITranslator,
    INotebookTracker,
    IToolbarWidgetRegistry,
    IStatusBar,
    ICommandPalette,
    ILayoutRestorer,
    ISettingRegistry
  ],
  activate
};

export default plugin;

function activate(
  app: JupyterFrontEnd,
  translator: ITranslator | null,
  tracker: INotebookTracker | null,
  toolbars: IToolbarWidgetRegistry | null,
  status: IStatusBar | null,
  palette: ICommandPalette | null,
  restorer: ILayoutRestorer | null,
  registry: ISettingRegistry | null
): void {
  const model = new Model({ settings: app.serviceManager.serverSettings });
  const scene = sceneOf(model, translator ?? nullTranslator);
  const meant = () => (tracker?.currentWidget && sessionOf(tracker.currentWidget, model)) ?? onlyOne(model);
  const panel = new CiuicPanel({
    scene,
    insert: () => insertFirst(tracker),
    hasNotebook: () => Boolean(tracker?.currentWidget)
  });
  const open = () => {
    app.shell.activateById(panel.id);
  };
  addCommands({ app, scene, meant, open, tracker });
  app.shell.add(panel, 'right', { rank: 900, type: 'Sessions' });
  restorer?.add(panel, panel.id);
  tracker?.currentChanged.connect(() => panel.update());
  tracker?.activeCellChanged.connect(() => app.commands.notifyCommandChanged(COMMANDS.quote));
  toolbars?.addFactory<NotebookPanel>('Notebook', 'ciuic-pause', notebook => {
    return new NotebookButton(scene, () => sessionOf(notebook, model));
  });
  if (status) {
    const item = new StatusItem(scene, meant, open);
    tracker?.currentChanged.connect(() => item.update());
    status.registerStatusItem('ciuic-jupyter:status', { item, align: 'left', rank: 90 });
  }
  Object.values(COMMANDS).forEach(command =>
    palette?.addItem({ command, category: scene.trans.__('Sessions and costs') })
  );
  void configure(app, panel, registry).then(outputs => {
    if (tracker && outputs) {
      new Outputs(model, tracker);
    }
  });
}

function sceneOf(model: Model, translator: ITranslator): Scene {
  const language = translator.languageCode.replace('_', '-');
  // who reads English lives in many places: their browser knows which
  const own = language.startsWith('en') ? navigator.language : language;
  return { model, trans: translator.load('ciuic_jupyter'), locale: safeLocale(own) };
}

/** Put the panel where the settings say, and return whether outputs are to come back. */
async function configure(
  app: JupyterFrontEnd,
  panel: Widget,
  registry: ISettingRegistry | null
): Promise<boolean> {
  if (!registry) {
    return true;
  }
  try {
    const settings = await registry.load(ID);
    if (settings.get('side').composite === 'left') {
      app.shell.add(panel, 'left', { rank: 900, type: 'Sessions' });
    }
    return settings.get('restoreOutputs').composite !== false;
  } catch {
    return true; // a server that lacks our schema
  }
}
