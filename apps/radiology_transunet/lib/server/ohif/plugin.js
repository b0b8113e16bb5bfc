/* The OHIF extension: puts the panel into the segmentation mode and speaks to OHIF for it. */
(function () {
  'use strict';

  const WAIT_MS = 20000;
  const STEP_MS = 200;

  const pause = ms => new Promise(resolve => setTimeout(resolve, ms));

  /** What the panel may ask of OHIF. */
  function bridge(servicesManager, commandsManager, extensionManager) {
    const { displaySetService, viewportGridService, segmentationService } = servicesManager.services;
    const strokes = new window.transunetStrokes.Strokes(servicesManager.services);
    const ofSeries = uid => displaySetService.getDisplaySetsForSeries(uid)[0];

    /** The display set of the images in the active viewport. */
    function activeImages() {
      const { activeViewportId, viewports } = viewportGridService.getState();
      const uids = viewports.get(activeViewportId)?.displaySetInstanceUIDs || [];
      return uids.map(uid => displaySetService.getDisplaySetByUID(uid)).find(set => set && set.Modality !== 'SEG');
    }

    /** Study and series that the viewer shows (the address counts until images are there), and the task in the address. */
    function openCase() {
      const address = new URLSearchParams(window.location.search);
      const byName = name => [...address].find(([key]) => key.toLowerCase() === name)?.[1] || '';
      const series = activeImages()?.SeriesInstanceUID || byName('initialseriesinstanceuid');
      return { study: byName('studyinstanceuids').split(',')[0], series, task: byName('task') };
    }

    /** The display set of a series; asks the archive again when OHIF does not know it yet. */
    async function find(series) {
      if (ofSeries(series)) return ofSeries(series);
      const [source] = extensionManager.getActiveDataSource();
      const { study } = openCase();
      source.deleteStudyMetadataPromise(study);
      await source.retrieve.series.metadata({ StudyInstanceUID: study });
      for (let waited = 0; waited < WAIT_MS; waited += STEP_MS) {
        if (ofSeries(series)) return ofSeries(series);
        await pause(STEP_MS);
      }
      throw new Error('The viewer does not find the draft in the archive yet. Reload the page.');
    }

    /** Show a SEG on the images of the active viewport, ready to edit. */
    async function showSegmentation(segSeries) {
      const seg = await find(segSeries);
      const { activeViewportId } = viewportGridService.getState();
      if (!seg.isLoaded) await seg.load({ headers: {} });
      const segmentationId = seg.displaySetInstanceUID;
      const shown = segmentationService.getSegmentationRepresentations(activeViewportId, { segmentationId });
      if (!shown.length) await segmentationService.addSegmentationRepresentation(activeViewportId, { segmentationId });
      segmentationService.setActiveSegmentation(activeViewportId, segmentationId);
    }

    /** Go to the middle of a label of the active segmentation; whether there was one. */
    function jumpTo(name) {
      const { activeViewportId } = viewportGridService.getState();
      const active = segmentationService.getActiveSegmentation(activeViewportId);
      const segment = active && Object.values(active.segments).find(found => found?.label === name);
      if (!segment) return false;
      segmentationService.setActiveSegment(active.segmentationId, segment.segmentIndex);
      segmentationService.jumpToSegmentCenter(active.segmentationId, segment.segmentIndex, activeViewportId);
      return true;
    }

    /** OHIF writes a segmentation from images in its cache: bring those in that it has not loaded yet. */
    async function loadImages() {
      const [source] = extensionManager.getActiveDataSource();
      const ids = source.getImageIdsForDisplaySet(activeImages());
      await Promise.all(ids.map(id => window.cornerstone.imageLoader.loadAndCacheImage(id)));
    }

    /** Store the segmentation of the active viewport in the archive. */
    async function storeSegmentation(description) {
      const { activeViewportId } = viewportGridService.getState();
      const active = segmentationService.getActiveSegmentation(activeViewportId);
      if (!active) throw new Error('There is no segmentation to submit. Load the draft or draw one first.');
      await loadImages();
      const source = extensionManager.getActiveDataSourceDefinition().sourceName;
      const made = await commandsManager.runCommand('generateSegmentation', {
        segmentationId: active.segmentationId,
        options: { dataSource: source, SeriesDescription: description, SeriesNumber: 3000 },
      });
      if (!made?.dataset) throw new Error('OHIF could not write the segmentation.');
      const store = commandsManager.runCommand('createStoreFunction', { dataSource: source });
      await store(made.dataset, {});
    }

    return { openCase, showSegmentation, storeSegmentation, jumpTo, strokes };
  }

  /** A React 18 element without React: OHIF bundles it and does not hand it out. */
  function reactElement(mount) {
    return {
      $$typeof: Symbol.for('react.element'),
      type: 'div',
      key: null,
      ref: mount,
      props: { style: { height: '100%' } },
      _owner: null,
      _store: {},
    };
  }

  window.transunetExtension = {
    id: 'transunet',
    version: '1.0.0',
    getPanelModule({ servicesManager, commandsManager, extensionManager }) {
      const viewer = bridge(servicesManager, commandsManager, extensionManager);
      const mount = host => {
        if (!host || host.firstChild) return;
        viewer.strokes.follow(extensionManager.getActiveDataSource()[0]);
        const panel = document.createElement('transunet-panel');
        panel.viewer = viewer;
        host.append(panel);
      };
      const component = () => reactElement(mount);
      return [{ name: 'case', iconName: 'tab-patient-info', iconLabel: 'TransUNet', label: 'TransUNet', component }];
    },
  };
})();
