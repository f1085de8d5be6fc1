/** One click in the notebook's toolbar and in the status bar: pause, or resume; each step is told on the spot. */

import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import React from 'react';

import { price } from './format';
import { meterIcon, pauseIcon, resumeIcon } from './icons';
import { flow, Model, possible } from './model';
import { Scene, Ticking } from './parts';
import { Action, Session } from './types';
import { stateText, stepText, stoppedText, toneOf } from './words';

/** Return what one click would do to a session: pause it or get it going again; nothing while it is on its way. */
export function oneClick(session: Session): Action | null {
  const [first] = possible(session);
  return first === 'pause' || first === 'resume' ? first : null;
}

/** Return what the button says now: what it does, or the step that is under way. */
export function clickText(session: Session, pending: Action | undefined, scene: Scene): string {
  const { trans } = scene;
  if (pending === 'pause') {
    return trans.__('Pausing…');
  }
  if (pending === 'resume') {
    return trans.__('Resuming…');
  }
  const step = stepText(session, scene);
  if (step) {
    return step;
  }
  const does = oneClick(session);
  return does === 'pause'
    ? trans.__('Pause')
    : does === 'resume'
      ? trans.__('Resume')
      : stateText(session, scene);
}

export function OneClick({ scene, session }: { scene: Scene; session: Session }): JSX.Element {
  const { model, trans, locale } = scene;
  const pending = model.pending(session.name);
  const does = oneClick(session);
  const off = does === null || pending !== undefined || !model.fresh;
  const Icon = does === 'resume' || session.state === 'paused' ? resumeIcon : pauseIcon;
  const hints: Record<string, string> = {
    pause: trans.__('Save at the next loop turn, then let the machine go'),
    resume: trans.__('Get a machine again and restore everything')
  };
  const label = clickText(session, pending, scene);
  const hint = `${label} – ${session.name.slice(0, 100)}${does ? `: ${hints[does]}` : ''}`;
  const error = model.error(session.name);
  return (
    <span className={`ciuic-tool ciuic-${toneOf(session)}`}>
      <button
        type="button"
        className="ciuic-toolbutton"
        aria-disabled={off ? true : undefined}
        aria-label={hint}
        title={error || hint}
        onClick={() => !off && does && void model.act(session.name, does)}
      >
        <Icon.react tag="span" className="ciuic-glyph" aria-hidden="true" />
        <span className="ciuic-step">{label}</span>
      </button>
      <span className="ciuic-after">
        {error ? (
          <span className="ciuic-failed" role="alert" title={error}>
            {error.slice(0, 80)}
          </span>
        ) : session.state === 'paused' ? (
          <Ticking model={model} text={now => stoppedText(session, now, scene)} />
        ) : (
          <span className="ciuic-number">
            {flow(session) > 0 ? trans.__('%1/h', price(flow(session), session.currency, locale)) : ''}
          </span>
        )}
      </span>
    </span>
  );
}

/** The notebook's button; takes no room until the notebook has a session. */
export class NotebookButton extends ReactWidget {
  constructor(
    private _scene: Scene,
    private _session: () => Session | undefined
  ) {
    super();
    this.addClass('ciuic-notebook');
  }

  protected override render(): JSX.Element {
    return (
      <UseSignal signal={this._scene.model.changed}>
        {() => {
          const session = this._session();
          return session && session.state !== 'closed' ? (
            <OneClick scene={this._scene} session={session} />
          ) : (
            <></>
          );
        }}
      </UseSignal>
    );
  }
}

/** The status bar's item: what all sessions cost an hour, and the one click where it is clear whom it means. */
export class StatusItem extends ReactWidget {
  constructor(
    private _scene: Scene,
    private _session: () => Session | undefined,
    private _open: () => void
  ) {
    super();
    this.addClass('ciuic-status');
  }

  protected override render(): JSX.Element {
    return <UseSignal signal={this._scene.model.changed}>{() => this._item()}</UseSignal>;
  }

  private _item(): JSX.Element {
    const { model, trans, locale } = this._scene;
    const { total, plane } = model;
    const session = this._session();
    const rate = total ? trans.__('%1/h', price(model.rate, total.currency, locale)) : '–';
    const away = plane !== null && !plane.up;
    const text = away ? trans.__('control plane away') : rate;
    return (
      <>
        <button
          type="button"
          className={`ciuic-toolbutton${model.fresh ? '' : ' ciuic-stale'}`}
          title={trans.__('What all sessions cost an hour now; show the sessions')}
          aria-label={trans.__('Sessions: %1', text)}
          onClick={this._open}
        >
          <meterIcon.react tag="span" className="ciuic-glyph" aria-hidden="true" />
          <span className="ciuic-number">{text}</span>
        </button>
        {session && session.state !== 'closed' && <Short scene={this._scene} session={session} />}
      </>
    );
  }
}

function Short({ scene, session }: { scene: Scene; session: Session }): JSX.Element {
  const { model } = scene;
  const pending = model.pending(session.name);
  const does = oneClick(session);
  const off = does === null || pending !== undefined || !model.fresh;
  const Icon = does === 'resume' || session.state === 'paused' ? resumeIcon : pauseIcon;
  const label = clickText(session, pending, scene);
  const hint = `${label} – ${session.name.slice(0, 100)}`;
  return (
    <button
      type="button"
      className="ciuic-toolbutton"
      aria-disabled={off ? true : undefined}
      aria-label={hint}
      title={model.error(session.name) || hint}
      onClick={() => !off && does && void model.act(session.name, does)}
    >
      <Icon.react tag="span" className="ciuic-glyph" aria-hidden="true" />
      <span className="ciuic-step">{label}</span>
    </button>
  );
}

/** Return the session that a click without a notebook means: the one that is billed, if there is one alone. */
export function onlyOne(model: Model): Session | undefined {
  const billed = model.sessions.filter(session => !['paused', 'closed', 'failed'].includes(session.state));
  if (billed.length === 1) {
    return billed[0];
  }
  const paused = model.sessions.filter(session => session.state === 'paused');
  return billed.length === 0 && paused.length === 1 ? paused[0] : undefined;
}
