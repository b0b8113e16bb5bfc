/* What somebody drew and has not stored yet. OHIF reports a change of a segmentation also when it only shows one. */
(function () {
  'use strict';

  const AFTER_MS = 1500; // tools may write their voxels up to this long after the pointer was let go
  const DRAWING = /brush|eraser|scissor|segment|labelmap|fill|sculptor|spline|livewire|freehand/i;
  const BACK = '[data-cy="return-to-work-list"]'; // OHIF's way back changes the page without unloading it
  const WARNING = 'Your corrections of this case are not stored yet. Leave them?';

  /** Strokes of a viewer: changes of a segmentation while a tool that draws is used in a viewport. */
  class Strokes {
    constructor({ segmentationService, toolGroupService }) {
      this.segmentations = segmentationService;
      this.tools = toolGroupService;
      this.subscription = null;
      this.listeners = new Set();
      this.drawn = 0;
      this.stored = 0;
      this.pressed = false;
      this.released = -Infinity;
      this.leaving = false;
      document.addEventListener('pointerdown', event => this.press(event), true);
      for (const end of ['pointerup', 'pointercancel']) document.addEventListener(end, () => this.release(), true);
      document.addEventListener('click', event => this.guardWayBack(event), true);
      window.addEventListener('beforeunload', event => this.unsaved && !this.leaving && event.preventDefault());
    }

    /** Whether there are strokes that the archive does not have. */
    get unsaved() {
      return this.drawn > this.stored;
    }

    /** Hear of changes and of what a data source stores, whoever asks it to: our button or OHIF's own menu. */
    follow(source) {
      this.subscription?.unsubscribe(); // OHIF forgets subscriptions when a case is left
      const event = this.segmentations.EVENTS.SEGMENTATION_DATA_MODIFIED;
      this.subscription = this.segmentations.subscribe(event, () => this.note());
      if (this.source !== source) this.watchStore(source);
      this.source = source;
    }

    press(event) {
      const viewport = event.target instanceof Element && event.target.closest('[data-viewportid]');
      const tool = viewport && this.tools.getActiveToolForViewport(viewport.dataset.viewportid);
      this.pressed = DRAWING.test(tool || '');
    }

    release() {
      if (this.pressed) this.released = performance.now();
      this.pressed = false;
    }

    note() {
      if (!this.pressed && performance.now() - this.released > AFTER_MS) return;
      this.drawn += 1;
      this.listeners.forEach(listener => listener());
    }

    /** Call the listener at each stroke; the returned function ends it. */
    listen(listener) {
      this.listeners.add(listener);
      return () => this.listeners.delete(listener);
    }

    watchStore(source) {
      const store = source.store.dicom;
      source.store.dicom = async (dataset, ...rest) => {
        const drawn = this.drawn;
        const answer = await store(dataset, ...rest);
        if (dataset?.Modality === 'SEG') this.stored = drawn;
        return answer;
      };
    }

    /** Whether the case may be left: nothing is lost, or the person says so. */
    mayLeave() {
      return !this.unsaved || window.confirm(WARNING);
    }

    /** Go to an address of this server; whoever calls has asked before. */
    leaveFor(address) {
      this.leaving = true;
      window.location.assign(address);
    }

    guardWayBack(event) {
      if (!(event.target instanceof Element) || !event.target.closest(BACK)) return;
      if (this.mayLeave()) {
        this.stored = this.drawn;
      } else {
        event.preventDefault();
        event.stopPropagation();
      }
    }
  }

  window.transunetStrokes = { Strokes };
})();
