/** One session: its state, what it costs, what goes on, and what can be done. */

import { Dialog, showDialog } from '@jupyterlab/apputils';
import React from 'react';

import { money, price, span } from './format';
import { pauseIcon, resumeIcon } from './icons';
import { flow, possible, spentAt } from './model';
import { BudgetBar, Button, Name, Scene, Spark, Ticking } from './parts';
import { Action, Session } from './types';
import {
  budgetName,
  budgetText,
  forecastText,
  lineText,
  reasonText,
  shownBudgets,
  stateText,
  toneOf
} from './words';

export function SessionCard({ scene, session }: { scene: Scene; session: Session }): JSX.Element {
  const { trans, locale, model } = scene;
  const tone = toneOf(session);
  const { what, history } = model.usage(session.name);
  const error = model.error(session.name);
  const unspent = session.unspent_nano ?? 0;
  return (
    <li className={`ciuic-session ciuic-${tone}`} data-session={session.name.slice(0, 300)}>
      <div className="ciuic-head">
        <span className={`ciuic-dot${session.busy ? ' ciuic-busy' : ''}`} aria-hidden="true" />
        <Name text={session.name} className="ciuic-title" />
        <span className="ciuic-state" role="status">
          {stateText(session, scene)}
        </span>
      </div>
      <div className="ciuic-money">
        <div>
          <Ticking
            model={model}
            className="ciuic-amount"
            text={now => money(spentAt(session, now), session.currency, locale)}
          />
          <span className="ciuic-sub">
            {session.instance} · {trans.__('%1/h', price(flow(session), session.currency, locale))}
          </span>
        </div>
        {session.state === 'running' && history.length > 1 && <Spark what={what} history={history} />}
        {session.state !== 'running' && unspent > 0 && (
          <div className="ciuic-unspent">
            <span className="ciuic-amount2">{money(unspent, session.currency, locale)}</span>
            <span className="ciuic-sub">{trans.__('not spent')}</span>
          </div>
        )}
      </div>
      <SavingBar session={session} label={stateText(session, scene)} />
      <RunBar session={session} scene={scene} />
      <div className="ciuic-line">
        <Ticking model={model} text={now => lineText(session, now, scene)} />
        <div>
          <Ticking model={model} className="ciuic-sub" text={now => forecastText(session, now, scene)} />
        </div>
        {reasonText(session) && (
          <div className="ciuic-sub ciuic-clip2" title={reasonText(session)}>
            {reasonText(session)}
          </div>
        )}
      </div>
      {shownBudgets(session).map(budget => (
        <BudgetBar
          key={budget.key}
          scene={scene}
          name={budgetName(budget, scene)}
          spent={now => spentAt({ ...budget, currency: session.currency, as_of: session.as_of }, now)}
          budget={budget.budget_nano}
          mark={budget.mark}
          currency={session.currency}
        />
      ))}
      {budgetText(session, scene) && (
        <div className="ciuic-alert" aria-live="polite">
          <span>{budgetText(session, scene)}</span>
        </div>
      )}
      <Waiting session={session} scene={scene} />
      <Buttons session={session} scene={scene} />
      {error && (
        <div className="ciuic-alert" role="alert">
          <span>{error}</span>
          <Button
            label={trans.__('OK')}
            hint={trans.__('Hide this message')}
            press={() => model.forgive(session.name)}
          />
        </div>
      )}
      {!error && session.state === 'failed' && session.message && (
        <div className="ciuic-alert" role="alert">
          <span>{session.message}</span>
        </div>
      )}
    </li>
  );
}

function SavingBar({ session, label }: { session: Session; label: string }): JSX.Element | null {
  const fraction = session.progress?.fraction;
  if (session.state !== 'saving' && session.state !== 'stopping') {
    return null;
  }
  const known = typeof fraction === 'number';
  const width = session.state === 'stopping' ? 1 : known ? fraction : 0.1;
  return (
    <div
      className="ciuic-bar ciuic-saving"
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={known ? Math.round(100 * fraction) : undefined}
    >
      <i style={{ width: `${100 * width}%` }} />
    </div>
  );
}

function RunBar({ session, scene }: { session: Session; scene: Scene }): JSX.Element | null {
  const fraction = session.forecast?.fraction;
  if (!session.busy || typeof fraction !== 'number') {
    return null;
  }
  return (
    <div
      className="ciuic-bar"
      role="progressbar"
      aria-label={scene.trans.__('Progress of the cell')}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(100 * fraction)}
    >
      <i style={{ width: `${100 * fraction}%` }} />
    </div>
  );
}

/** What a pause that finds no loop turn waits for, and what stopping now would lose. */
function Waiting({ session, scene }: { session: Session; scene: Scene }): JSX.Element | null {
  const { trans, locale, model } = scene;
  const grace = session.pause;
  if (!grace || session.state !== 'running') {
    return null;
  }
  const why = (grace.skipped ?? []).join('; ') || trans.__('the cell has had no loop turn');
  const lost = trans.__(
    'Stopping now loses %1 of work (%2).',
    span(grace.lose_seconds, locale),
    money(grace.lose_nano, session.currency, locale)
  );
  return (
    <div className="ciuic-alert" role="alert">
      <span>
        {trans.__('Not paused for %1: %2.', span(grace.waiting_seconds, locale), why)} {lost}
      </span>
      <Button
        label={trans.__('Stop now')}
        hint={lost}
        press={() => void model.act(session.name, 'pause', { now: true })}
      />
    </div>
  );
}

/** Ask before a running cell is interrupted: a click beside Pause must not cost an epoch. */
async function surely(session: Session, action: Action, { trans, model }: Scene): Promise<void> {
  if (session.busy && (action === 'release' || action === 'close')) {
    const label = action === 'release' ? trans.__('Release') : trans.__('Close');
    const asked = await showDialog({
      title: trans.__('A cell is running'),
      body: trans.__('It is interrupted. Pause saves it at its next loop turn instead, and loses nothing.'),
      buttons: [
        Dialog.cancelButton({ label: trans.__('Cancel') }),
        Dialog.createButton({ label: trans.__('Pause'), accept: true, actions: ['pause'] }),
        Dialog.warnButton({ label })
      ]
    });
    if (!asked.button.accept) {
      return;
    }
    await model.act(session.name, asked.button.actions.includes('pause') ? 'pause' : action);
    return;
  }
  await model.act(session.name, action);
}

function Buttons({ session, scene }: { session: Session; scene: Scene }): JSX.Element {
  const { trans, model } = scene;
  const can = possible(session);
  const pending = model.pending(session.name);
  const press = (action: Action, body: object = {}) => void model.act(session.name, action, body);
  const off = (action: Action) => pending !== undefined || !model.fresh || !can.includes(action);
  const resumes = !['requested', 'starting', 'running', 'saving', 'stopping'].includes(session.state);
  const pausing = pending === 'pause' || session.pause_pending;
  return (
    <div className="ciuic-buttons" role="group" aria-label={trans.__('Actions')}>
      {/* one button, whatever it says: it keeps the focus when a pause becomes a resume */}
      <Button
        main
        icon={resumes ? resumeIcon : pauseIcon}
        label={
          resumes
            ? pending === 'resume'
              ? trans.__('Resuming…')
              : trans.__('Resume')
            : pausing
              ? trans.__('Pausing…')
              : trans.__('Pause')
        }
        hint={
          resumes
            ? trans.__('Get a machine again and restore everything')
            : trans.__('Save at the next loop turn, then let the machine go')
        }
        off={off(resumes ? 'resume' : 'pause')}
        press={() => press(resumes ? 'resume' : 'pause')}
      />
      <Button
        label={trans.__('Release')}
        hint={trans.__('Interrupt the running cell, save, and let the machine go now')}
        off={off('release')}
        press={() => void surely(session, 'release', scene)}
      />
      <Button
        label={trans.__('Keep 30 min')}
        hint={trans.__('No idle release for half an hour')}
        off={off('keep')}
        press={() => press('keep', { seconds: 1800 })}
      />
      <Button
        label={trans.__('Close')}
        hint={trans.__('Save, let the machine go, and end the session; its checkpoint is kept')}
        off={off('close')}
        press={() => void surely(session, 'close', scene)}
      />
    </div>
  );
}
