/* What somebody drew and has not stored yet. OHIF reports a change of a segmentation also when it only shows one. */
(function () {
  'use strict';

  const AFTER_MS = 1500; // tools may write their voxels up to this long after the pointer was let go
  const DRAWING = /brush|eraser|scissor|segment|labelmap|fill|sculptor|spline|livewire|freehand/i;

  /** Follow the strokes of a viewer: a change of a segmentation while a tool that draws is used in a viewport. */
  function follow({ segmentationService, toolGroupService }) {
    const listeners = new Set();
    let pressed = false;
    let released = -Infinity;

    const press = event => {
      const viewport = event.target instanceof Element && event.target.closest('[data-viewportid]');
      const tool = viewport && toolGroupService.getActiveToolForViewport(viewport.dataset.viewportid);
      pressed = DRAWING.test(tool || '');
    };
    const release = () => {
      if (pressed) released = performance.now();
      pressed = false;
    };
    document.addEventListener('pointerdown', press, true);
    for (const end of ['pointerup', 'pointercancel']) document.addEventListener(end, release, true);
    segmentationService.subscribe(segmentationService.EVENTS.SEGMENTATION_DATA_MODIFIED, () => {
      if (pressed || performance.now() - released < AFTER_MS) listeners.forEach(listener => listener());
    });

    /** Call the listener at each stroke; the returned function ends it. */
    return listener => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    };
  }

  window.transunetStrokes = { follow };
})();
