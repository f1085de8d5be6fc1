/** What one more run of a cell would cost on each machine type, and what that rests on. */

import { Dialog, showDialog } from '@jupyterlab/apputils';
import { Cell } from '@jupyterlab/cells';
import { NotebookPanel } from '@jupyterlab/notebook';
import { ReactWidget } from '@jupyterlab/ui-components';
import React from 'react';

import { money } from './format';
import { sessionOf } from './notebooks';
import { cellBody, sessionIn } from './outputs';
import { Name, Scene } from './parts';
import { basis, notes } from './quoting';
import { Quote, QuotedMachine } from './types';
import { Tongue } from './words';

/** A quote that is asked for when it is first shown. */
export function QuoteView({ scene, ask }: { scene: Scene; ask: () => Promise<Quote> }): JSX.Element {
  const { trans } = scene;
  const [quote, setQuote] = React.useState<Quote | null>(null);
  const [problem, setProblem] = React.useState('');
  React.useEffect(() => {
    let current = true;
    ask().then(
      found => current && setQuote(found),
      (error: Error) => current && setProblem(error.message)
    );
    return () => void (current = false);
  }, []);
  if (problem) {
    return (
      <div className="ciuic-alert" role="alert">
        {problem}
      </div>
    );
  }
  if (quote === null) {
    return <p className="ciuic-sub">{trans.__('Asking…')}</p>;
  }
  return (
    <div className="ciuic-receipt ciuic-quote">
      <table aria-label={trans.__('Quote')}>
        <tbody>
          {quote.machines.map(one => (
            <tr key={`${one.instance} ${one.currency}`}>
              <th scope="row">
                <Name text={one.instance} />
                <span className="ciuic-sub">{basis(one, scene)}</span>
              </th>
              <td>
                {costText(one, scene)}
                <span className="ciuic-sub">{rangeText(one, scene)}</span>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {notes(quote, scene).map(text => (
        <p className="ciuic-sub" key={text}>
          {text}
        </p>
      ))}
    </div>
  );
}

function costText(one: QuotedMachine, { trans, locale }: Tongue): string {
  if (!one.offered) {
    return trans.__('not offered now');
  }
  return one.cost_nano
    ? money(one.cost_nano[1], one.currency, locale)
    : trans.__('%1 an hour', money(one.hour_nano ?? 0, one.currency, locale));
}

function rangeText(one: QuotedMachine, { trans, locale }: Tongue): string {
  if (!one.cost_nano || one.cost_nano[0] === one.cost_nano[2]) {
    return '';
  }
  const [least, , most] = one.cost_nano.map(nano => money(nano, one.currency, locale));
  return trans.__('%1 to %2', least, most);
}

/** Tell whether a cell is one that runs in a session, so that it can be quoted. */
export function canQuote(cell: Cell | null | undefined): boolean {
  return cell?.model.type === 'code' && sessionIn(cell.model.sharedModel.getSource()) !== null;
}

/** Show what a cell would cost; nothing is run. */
export async function quoteCell(scene: Scene, panel: NotebookPanel, cell: Cell): Promise<void> {
  const source = cell.model.sharedModel.getSource();
  const asked = {
    code: cellBody(source),
    cell_id: cell.model.id,
    session: sessionIn(source) || sessionOf(panel, scene.model)?.name
  };
  const body = ReactWidget.create(<QuoteView scene={scene} ask={() => scene.model.quote(asked)} />);
  body.addClass('ciuic-quoted');
  await showDialog({
    title: scene.trans.__('What this cell would cost'),
    body,
    buttons: [Dialog.okButton({ label: scene.trans.__('OK') })]
  });
}
