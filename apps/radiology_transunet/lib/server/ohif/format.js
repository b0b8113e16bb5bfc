/* Numbers, times and elements, written once for the panel and the worklist. */
(function () {
  'use strict';

  const NUMBERS = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

  /** An element with attributes and children; text is never read as HTML. */
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith('on')) {
        made.addEventListener(name.slice(2), value);
      } else if (value !== null && value !== undefined && value !== false) {
        made.setAttribute(name, value === true ? '' : String(value));
      }
    }
    made.append(...children.flat().filter(child => child !== null && child !== undefined && child !== ''));
    return made;
  }

  const count = value => NUMBERS.format(value);

  /** A volume in millilitres with the digits that matter. */
  const millilitres = value => (value >= 100 ? NUMBERS.format(value) : value.toPrecision(2)) + ' ml';

  /** Hours and minutes of a moment, with the date when it is not today. */
  function clock(iso) {
    if (!iso) return '';
    const moment = new Date(iso);
    const time = moment.toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' });
    if (moment.toDateString() === new Date().toDateString()) return time;
    return `${moment.toLocaleDateString('en-GB', { day: '2-digit', month: 'short' })} ${time}`;
  }

  /** A DICOM date as people write it in reports: 2026-11-20. */
  const date = text => (/^\d{8}$/.test(text || '') ? `${text.slice(0, 4)}-${text.slice(4, 6)}-${text.slice(6)}` : text || '');

  const rgb = color => `rgb(${color.join(' ')})`;

  const DICE = 'Estimated Dice: how far the draft will overlap with a correction of it, 0 to 1. In 9 of 10 new patients it lies in the range below. Research use only.';
  const UNFAMILIAR = 'The model was not calibrated on such images or masks, so nobody knows how good this draft is: look closely. Research use only.';

  /** An estimated Dice as { label, value, range, isFamiliar, title }; null where the model has none or drew nothing. */
  function dice(label, estimate) {
    if (!estimate || estimate.reason === 'not predicted') return null;
    if (!estimate.is_familiar) return { label, value: 'unfamiliar', range: '', isFamiliar: false, title: `${label}: ${UNFAMILIAR}` };
    if (estimate.value === null) return null;
    const range = estimate.low === null ? '' : `${estimate.low.toFixed(2)}–${estimate.high.toFixed(2)}`;
    return { label, value: estimate.value.toFixed(2), range, isFamiliar: true, title: `${label}: ${range ? DICE : `${DICE.split('.')[0]}; ${estimate.reason}.`}` };
  }

  /** The worst of the estimates of a case: an unfamiliar label before all others; null without any. */
  function leastDice(estimates) {
    const all = Object.entries(estimates || {}).map(([label, estimate]) => dice(label, estimate)).filter(Boolean);
    return all.sort((one, other) => one.isFamiliar - other.isFamiliar || Number(one.value) - Number(other.value))[0] || null;
  }

  window.transunetFormat = { element, count, millilitres, clock, date, rgb, dice, leastDice, DICE };
})();
