/* <transunet-panel>: the case that is open, its draft, and what to do with it. */
(function () {
  'use strict';

  const { element, count, millilitres, clock, rgb, dice, DICE } = window.transunetFormat;
  const POLL_MS = 5000;
  const KEPT = 'Submit your corrections first, or leave them.';

  const STATES = {
    labelled: 'labelled',
    submitted: 'in review',
    held: 'held back',
    drafted: 'draft ready',
    todo: 'no draft',
    new: 'being checked',
    refused: 'refused',
  };

  class TransunetPanel extends HTMLElement {
    constructor() {
      super();
      this.attachShadow({ mode: 'open' });
      this.viewer = null; // set by the plug-in: what the panel may ask of OHIF
      this.answer = null;
      this.busy = false;
      this.body = element('div');
      this.status = element('output', { role: 'status', 'aria-live': 'polite' });
      this.shadowRoot.append(element('style', {}, window.transunetPanelStyle), this.body, this.status);
    }

    connectedCallback() {
      this.refresh();
      this.timer = setInterval(() => this.busy || document.hidden || this.refresh(), POLL_MS);
      this.stopListening = this.viewer.strokes.listen(() => this.noteStroke());
    }

    disconnectedCallback() {
      clearInterval(this.timer);
      this.stopListening();
    }

    /** Name of the task of this case; of the address while no case was found; '' leaves the choice to the server. */
    get task() {
      return this.answer ? this.answer.task.name : this.viewer.openCase().task;
    }

    /** The first stroke takes the case, so that a label stored by OHIF's own menu has an author too. */
    async noteStroke() {
      if (!this.answer || this.busy || this.taking || this.answer.case.holder === this.answer.user) return;
      this.taking = true;
      try {
        await this.takeCase();
        this.draw();
      } catch (error) {
        this.say(error.message, true);
      } finally {
        setTimeout(() => (this.taking = false), POLL_MS);
      }
    }

    /** Ask for the case again; draws only what changed, so that focus and selection stay. */
    async refresh() {
      try {
        const { study, series, task } = this.viewer.openCase();
        const answer = await window.transunet.case(study, series, task);
        const changed = JSON.stringify(answer) !== JSON.stringify(this.answer);
        if (changed) this.noteSaved(this.answer, answer);
        this.answer = answer;
        if (changed) this.draw();
      } catch (error) {
        this.answer = null;
        this.drawMissing(error);
      }
    }

    /** Say so when the label that somebody just stored has arrived. */
    noteSaved(before, after) {
      const label = after.case.label;
      if (!before || !label || before.case.series !== after.case.series) return;
      if (before.case.label && before.case.label.id === label.id) return;
      const changed = label.changed_voxels === null ? '' : `, ${count(label.changed_voxels)} voxels differ from the draft`;
      if (label.held) this.say(`Label ${label.id} is kept but held back until a reviewer has looked at it: ${label.held}. If it is a mistake, save it again.`, true);
      else this.say(`Saved as label ${label.id} by ${label.author} (${label.status})${changed}.`);
    }

    drawMissing(error) {
      const text = error.status === 404 ? 'This study is not on the worklist.' : error.message;
      this.body.replaceChildren(
        element('div', { class: 'top' }, element('span', { class: 'title' }, 'TransUNet')),
        element('p', { class: 'muted' }, text),
        this.buttons(null),
        this.nameField('')
      );
    }

    draw() {
      const { task, user } = this.answer;
      const here = this.answer.case;
      const parts = [
        element(
          'div',
          { class: 'top' },
          element('span', { class: 'title' }, here.description || here.modality),
          element('span', { class: `badge ${here.state}` }, STATES[here.state])
        ),
        element('p', { class: 'muted' }, `${task.name} · ${here.modality} · ${here.instances} images · patient ${here.patient}`),
        this.holder(here, user),
        here.reason ? element('p', { class: 'warn' }, here.reason) : null,
        here.label?.held ? element('p', { class: 'warn' }, `Held back for a reviewer: ${here.label.held}`) : null,
        ...here.findings.map(finding => element('p', { class: 'warn' }, finding)),
        here.why ? element('p', {}, element('span', { class: 'muted' }, `Place ${here.rank} in the queue: `), here.why) : null,
        here.label ? this.mask(here.label, here, task, 'Label') : this.mask(here.draft, here, task, 'Draft'),
        this.buttons(here),
        this.answer.login ? null : this.nameField(user),
      ];
      this.body.replaceChildren(...parts.filter(Boolean));
    }

    holder(here, user) {
      if (!here.holder) return null;
      const own = here.holder === user;
      return element('p', { class: own ? 'muted' : 'warn' }, own ? `Yours until ${clock(here.held_until)}` : this.heldBy());
    }

    /** Table of what a label or draft holds. */
    mask(annotation, here, task, what) {
      if (!annotation) return null;
      const by = what === 'Draft' ? `model v${annotation.version}` : annotation.author;
      const title = element('h2', {}, `${what} · ${by} · ${clock(annotation.created)}`);
      if (annotation.nothing_found) return element('section', {}, title, element('p', {}, 'Nothing found.'));
      const scores = what === 'Draft' ? here.scores : {};
      const estimates = what === 'Draft' ? here.estimated_dice : {};
      const isEstimated = Object.keys(estimates).length > 0;
      const most = Math.max(...Object.values(scores).filter(Number.isFinite), 1e-9);
      const rows = task.labels.map(label => this.row(label, annotation.voxels[label.name] || 0, here.voxel_ml, scores[label.name], most, isEstimated ? this.dice(dice(label.name, estimates[label.name])) : null));
      const head = element('tr', {}, element('th', { scope: 'col' }, 'Label'), element('th', { scope: 'col' }, 'Volume'), isEstimated ? element('th', { scope: 'col', title: DICE }, 'Est. Dice') : null, Object.keys(scores).length ? element('th', { scope: 'col', title: 'Larger: correcting this label teaches the model more' }, 'Unsure') : null);
      return element('section', {}, title, element('table', {}, element('thead', {}, head), element('tbody', {}, rows)));
    }

    /** Cell of an estimated Dice, empty where there is none. */
    dice(found) {
      if (!found) return element('td', {});
      return element('td', { title: found.title, class: found.isFamiliar ? 'dice' : 'dice unfamiliar' }, found.value, element('div', { class: 'muted small' }, found.range));
    }

    row(label, voxels, voxelMl, score, most, estimated) {
      const volume = voxels === 0 ? '–' : voxelMl ? millilitres(voxels * voxelMl) : count(voxels);
      const bar = element('span', { class: 'bar', 'aria-hidden': 'true' }, element('i', { style: `width:${Math.round((100 * (score || 0)) / most)}%` }));
      return element(
        'tr',
        { class: voxels ? null : 'absent', title: `${count(voxels)} voxels` },
        element('td', {}, element('button', { type: 'button', class: 'label', disabled: !voxels, title: 'Go to this label', onclick: () => this.go(label.name) }, element('span', { class: 'swatch', style: `background:${rgb(label.color)}` }), label.name)),
        element('td', {}, volume),
        estimated,
        Number.isFinite(score) ? element('td', {}, score.toFixed(2), bar) : null
      );
    }

    buttons(here) {
      const mask = here && (here.label || here.draft);
      const loadable = Boolean(mask && mask.seg_series && mask.stored);
      const done = Boolean(here && here.label);
      const open = Boolean(here && !['refused', 'new'].includes(here.state));
      const button = (text, action, enabled, title, kind) =>
        element('button', { type: 'button', class: kind || null, disabled: !enabled || this.busy, title, onclick: () => this.act(action) }, text);
      return element(
        'div',
        { class: 'buttons' },
        button(done ? 'Load label' : 'Load draft', () => this.load(mask), loadable, 'Show it on the images, ready to correct', done ? '' : 'main'),
        button('Submit label', () => this.submit(), open, 'Store the active segmentation as your label', done ? '' : 'main'),
        button('Pre-segment now', () => this.presegment(), open, 'Let the present model draft this case'),
        button('Skip', () => this.skip(), open, 'Give this case back and open the next one'),
        button('Next case', () => this.next(), true, 'Open the case that helps the model most', done ? 'wide main' : 'wide'),
        element('a', { href: window.transunet.worklistPath(this.task), onclick: event => this.leave(event) }, 'Worklist')
      );
    }

    nameField(user) {
      const field = element('input', {
        value: window.transunet.user(),
        placeholder: user,
        autocomplete: 'name',
        onchange: () => {
          try {
            window.transunet.setUser(field.value);
            this.say('');
          } catch (error) {
            this.say(error.message, true);
            return;
          }
          this.refresh();
        },
      });
      return element('label', {}, 'Annotator', field);
    }

    go(name) {
      this.say(this.viewer.jumpTo(name) ? '' : 'Load a segmentation first.');
    }

    say(text, isError = false) {
      this.status.textContent = text;
      this.status.className = isError ? 'error' : '';
    }

    /** One action at a time; its words or its error in the status line. */
    async act(action) {
      if (this.busy) return;
      this.busy = true;
      this.say('…');
      this.redraw();
      try {
        this.say((await action()) || '');
      } catch (error) {
        this.say(error.message, true);
      } finally {
        this.busy = false;
        this.redraw();
      }
    }

    redraw() {
      if (this.answer) this.draw();
    }

    /** Show a draft or label at the part that the model is least sure of. */
    async load(mask) {
      const { scores, holder } = this.answer.case;
      await this.viewer.showSegmentation(mask.seg_series);
      const there = Object.keys(mask.voxels).filter(name => mask.voxels[name]);
      const [first] = there.sort((one, other) => (scores[other] || 0) - (scores[one] || 0));
      if (first) this.viewer.jumpTo(first);
      if (holder && holder !== this.answer.user) return `${this.heldBy()} You may look, not submit.`;
      return mask.version ? 'Draft loaded. Correct it, then submit.' : 'Label loaded. Correct it, then submit again.';
    }

    async submit() {
      await this.takeCase();
      const { task, user } = this.answer;
      await this.viewer.storeSegmentation(`Label ${task.name} by ${user}`.slice(0, 64));
      return 'Stored in the archive; it appears here in a few seconds.';
    }

    async presegment() {
      const { series } = this.answer.case;
      this.say('The model works on this case …');
      this.answer = await window.transunet.draft(series, this.task);
      return this.answer.case.draft.nothing_found ? 'The model found nothing.' : 'Draft ready.';
    }

    async skip() {
      if (!this.viewer.strokes.mayLeave()) return KEPT;
      await window.transunet.release(this.answer.case.series, this.task);
      return this.openNext();
    }

    async next() {
      return this.viewer.strokes.mayLeave() ? this.openNext() : KEPT;
    }

    async openNext() {
      const found = await window.transunet.next(this.answer?.strategy, this.task);
      if (!found.id) return (found.why || 'no case is free right now').replace(/^n/, 'N');
      if (this.answer && found.id === this.answer.case.series) return 'This case is still yours: submit or skip it first.';
      this.viewer.strokes.leaveFor(found.viewer);
      return `Opening ${found.SeriesDescription || found.id}: ${found.why}`;
    }

    /** A lease on the open case, so that what is saved has an author. */
    async takeCase() {
      const { series } = this.answer.case;
      try {
        this.answer = await window.transunet.hold(series, this.task);
      } catch (error) {
        if (error.status === 409 && this.answer.case.holder) error.message = this.heldBy();
        throw error;
      }
    }

    /** The link to the worklist. */
    leave(event) {
      event.preventDefault();
      if (this.viewer.strokes.mayLeave()) this.viewer.strokes.leaveFor(event.currentTarget.href);
    }

    heldBy() {
      const { holder, held_until: until } = this.answer.case;
      return `${holder} works on this case until ${clock(until)}.`;
    }
  }

  customElements.define('transunet-panel', TransunetPanel);
})();
