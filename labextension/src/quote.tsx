/** What one more run of a cell would cost on each machine type, and what that rests on. */

import { Dialog, showDialog } from '@jupyterlab/apputils';
import { Cell } from '@jupyterlab/cells';
import { NotebookPanel } from '@jupyterlab/notebook';
import { ReactWidget } from '@jupyterlab/ui-components';
import React from 'react';

import { money, price, span } from './format';
import { sessionOf } from './notebooks';
import { cellBody, sessionIn } from './outputs';
import { Name, Scene } from './parts';
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

/** Return where an amount comes from: runs on this very type, or those on another taken as equally fast. */
export function basis(one: QuotedMachine, { trans, locale }: Tongue): string {
  const rate =
    one.price_nano_per_hour === null
      ? ''
      : trans.__('%1/h', price(one.price_nano_per_hour, one.currency, locale));
  let text = '';
  if (one.like) {
    text = trans.__('assumed as fast as %1', one.like.slice(0, 100));
  } else if (one.seconds) {
    text = trans.__('measured %1 × here, %2', one.runs, time(one.seconds[1], locale));
    if (one.billed_nano) {
      text += ` · ${trans.__('billed %1', money(one.billed_nano[1], one.currency, locale))}`;
    }
  }
  return [rate, text].filter(Boolean).join(' · ');
}

function time(seconds: number, locale: string): string {
  const short = { style: 'unit', unit: 'second', unitDisplay: 'short', maximumFractionDigits: 1 } as const;
  return seconds < 10 ? new Intl.NumberFormat(locale, short).format(seconds) : span(seconds, locale);
}

/** Return what has to be known beside the amounts: what counts, what does not, and what starts. */
export function notes(quote: Quote, { trans, locale }: Tongue): string[] {
  const found: string[] = [];
  if (quote.whole === 0) {
    found.push(trans.__('This cell has not run to its end yet.'));
  }
  if (quote.edited) {
    found.push(trans.__('The cell was changed since; these are runs of its earlier text.'));
  }
  if (quote.paused_on_the_way > 0) {
    found.push(trans.__('Through a pause, as one run: %1.', quote.paused_on_the_way));
  }
  const others = Object.values(quote.others).reduce((sum, count) => sum + count, 0);
  if (others > 0) {
    found.push(
      trans.__(
        '%1 not counted: failed, interrupted, paused still, under way, or on several machine types.',
        others
      )
    );
  }
  if (quote.machines.some(one => one.runs_now && one.cost_nano)) {
    found.push(trans.__('Where the machine runs already, only what comes on top.'));
  }
  const starts = quote.machines.filter(one => one.cost_nano && !one.runs_now).map(one => one.start_seconds);
  const known = starts.filter((seconds): seconds is number => seconds !== null);
  if (known.length > 0) {
    found.push(trans.__('With the start of a machine, %1 at most.', time(Math.max(...known), locale)));
  } else if (starts.length > 0) {
    found.push(trans.__('Without the start of a machine: it was never measured.'));
  }
  return [...found, ...quote.unasked.map(why => trans.__('Left out: %1', why.slice(0, 300)))];
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
