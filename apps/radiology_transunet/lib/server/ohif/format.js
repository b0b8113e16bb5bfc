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

  window.transunetFormat = { element, count, millilitres, clock, date, rgb };
})();
