/* OHIF's configuration: the archive behind this server, our panel, nothing from elsewhere. */
window.config = {
  name: 'radiology_transunet',
  routerBasename: null,
  whiteLabeling: {
    createLogoComponentFn: React =>
      React.createElement(
        'a',
        {
          href: window.transunet.worklistPath(new URLSearchParams(window.location.search).get('task')),
          title: 'Cases of the task, in the order that helps the model most',
          style: { color: '#5acce6', fontSize: 14, whiteSpace: 'nowrap' },
          onClick: event => event.stopPropagation(),
        },
        'TransUNet worklist'
      ),
  },
  extensions: [window.transunetExtension],
  modes: [],
  customizationService: {
    mode: { segmentation: { leftPanels: { $unshift: ['transunet.panelModule.case'] } } },
  },
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  groupEnabledModesFirst: true,
  investigationalUseDialog: { option: 'days', days: 365 },
  maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 10 },
  showErrorDetails: 'production',
  defaultDataSourceName: 'archive',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'archive',
      configuration: {
        friendlyName: 'Archive',
        name: 'archive',
        wadoUriRoot: '/dicom-web',
        qidoRoot: '/dicom-web',
        wadoRoot: '/dicom-web',
        qidoSupportsIncludeField: true,
        supportsReject: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        omitQuotationForMultipartRequest: true,
        bulkDataURI: { enabled: true, relativeResolution: 'studies' },
      },
    },
  ],
};
