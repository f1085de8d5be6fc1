/** The side panel. */

import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import React from 'react';

import { HistoryView } from './history';
import { meterIcon } from './icons';
import { Button, Scene } from './parts';
import { SessionCard } from './session';
import { Totals } from './totals';

export const FIRST_CELLS = [
  '%load_ext ciuic_jupyter',
  '%%ciuic_train\nfor epoch in range(20):\n    train(epoch)'
];

export interface PanelOptions {
  scene: Scene;
  /** Put the first cells into the notebook in front; null where there is none. */
  insert: () => void;
  hasNotebook: () => boolean;
}

export class CiuicPanel extends ReactWidget {
  constructor(private _options: PanelOptions) {
    super();
    const { trans } = _options.scene;
    this.id = 'ciuic-panel';
    this.addClass('ciuic-panel');
    this.title.icon = meterIcon;
    this.title.caption = trans.__('Sessions and what they cost');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Sessions and what they cost'));
  }

  protected override render(): JSX.Element {
    return (
      <UseSignal signal={this._options.scene.model.changed}>
        {() => <Body options={this._options} />}
      </UseSignal>
    );
  }
}

function Body({ options }: { options: PanelOptions }): JSX.Element {
  const { scene } = options;
  const { model, trans } = scene;
  const { sessions, total, plane } = model;
  const known = plane !== null;
  const open = sessions.filter(session => session.state !== 'closed');
  return (
    <div className={`ciuic-body${model.fresh ? '' : ' ciuic-stale'}`}>
      <Trouble scene={scene} />
      {!known && model.trouble === null && <p className="ciuic-sub ciuic-pad">{trans.__('Connecting…')}</p>}
      {known && total && (sessions.length > 0 || total.month_nano > 0) && (
        <Totals scene={scene} total={total} />
      )}
      {open.length > 0 && (
        <ul className="ciuic-sessions" aria-label={trans.__('Sessions')}>
          {open.map(session => (
            <SessionCard key={session.name} scene={scene} session={session} />
          ))}
        </ul>
      )}
      {known && plane.up && open.length === 0 && <First options={options} />}
      {known && sessions.length > 0 && <HistoryView scene={scene} />}
    </div>
  );
}

/** Say what is wrong, what still goes on, and what to do; nothing when all is well. */
function Trouble({ scene }: { scene: Scene }): JSX.Element | null {
  const { model, trans } = scene;
  const texts: Record<string, string> = {
    missing: trans.__(
      'This Jupyter server has not loaded ciuic_jupyter. Install the package into the environment of the server and restart it.'
    ),
    login: trans.__('This page is not logged in any more. Reload it and log in.'),
    server: trans.__(
      'The Jupyter server does not answer. Machines and runs go on; this page tries again by itself.'
    ),
    error: trans.__(
      'The Jupyter server could not answer. Machines and runs go on; this page tries again by itself.'
    )
  };
  const silent = model.link === 'stale' || model.link === 'lost';
  if (silent && (model.trouble !== null || model.plane === null)) {
    return (
      <Notice text={texts[model.trouble ?? 'server']}>
        <Button label={trans.__('Try again')} hint={trans.__('Connect now')} press={() => model.retry()} />
      </Notice>
    );
  }
  if (model.plane && !model.plane.up) {
    return (
      <Notice
        text={trans.__(
          'The control plane is not running. Machines and runs go on; start it to see and stop them.'
        )}
        detail={model.plane.error ?? ''}
      >
        <Button
          main
          label={model.starting ? trans.__('Starting…') : trans.__('Start the control plane')}
          hint={trans.__('Start the process that meters and stops machines')}
          off={model.starting}
          press={() => void model.startPlane()}
        />
      </Notice>
    );
  }
  if (silent) {
    return <Notice text={trans.__('The line is silent; amounts are estimates until it is back.')} />;
  }
  return null;
}

function Notice(props: { text: string; detail?: string; children?: React.ReactNode }): JSX.Element {
  return (
    <div className="ciuic-notice" role="alert">
      <p>{props.text}</p>
      {props.detail && <p className="ciuic-sub">{props.detail.slice(0, 500)}</p>}
      {props.children}
    </div>
  );
}

/** What to do first, where nothing runs yet. */
function First({ options }: { options: PanelOptions }): JSX.Element {
  const { scene, insert, hasNotebook } = options;
  const { trans } = scene;
  return (
    <section className="ciuic-first" aria-label={trans.__('Getting started')}>
      <h2>{trans.__('No session yet')}</h2>
      <p>
        {trans.__(
          'Run a cell on a metered machine, pause it in mid-training, and pay nothing until you resume:'
        )}
      </p>
      {FIRST_CELLS.map(code => (
        <pre key={code}>{code}</pre>
      ))}
      <p>
        {trans.__(
          'The session then shows up here with what it costs. Pause saves everything and lets the machine go; Resume goes on where it stood.'
        )}
      </p>
      <Button
        main
        label={trans.__('Put these cells into the notebook')}
        hint={hasNotebook() ? trans.__('Below the selected cell') : trans.__('Open a notebook first')}
        off={!hasNotebook()}
        press={insert}
      />
    </section>
  );
}
