/** Our glyphs: a meter, and pause and resume in a ring, so that nobody takes them for Jupyter's own run and stop. */

import { LabIcon } from '@jupyterlab/ui-components';

import meter from '../style/icons/meter.svg';
import pause from '../style/icons/pause.svg';
import resume from '../style/icons/resume.svg';

export const meterIcon = new LabIcon({ name: 'ciuic:meter', svgstr: meter });
export const pauseIcon = new LabIcon({ name: 'ciuic:pause', svgstr: pause });
export const resumeIcon = new LabIcon({ name: 'ciuic:resume', svgstr: resume });
