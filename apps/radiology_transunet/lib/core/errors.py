"""The tree of errors. Each message says what was expected, what came and what to do.

LabelError
├── InvalidInput            somebody handed over something that cannot be used
│   ├── GeometryMismatch    two grids that must be one
│   ├── InvalidVolume       NaN, empty, wrong number of axes
│   ├── InvalidMask         label ids outside the schema, wrong type
│   ├── InvalidSegmentation a DICOM SEG or label file that cannot become a mask
│   ├── InconsistentSeries  instances that do not make one volume
│   ├── UnreadablePixels    pixel data missing or not decodable
│   ├── InvalidWeights      a file of weights from elsewhere that does not fill the network
│   ├── InvalidTask         a task file, with the line
│   └── InvalidSettings     an option, with the place it came from
├── NotFound                no such series, annotation, job, model version
├── Conflict                somebody else holds it, or it is no longer in that state
├── NoChampion              a task without a served model
├── ManifestMismatch        a model that does not fit the task
├── ArchiveUnavailable      Orthanc does not answer, or refuses
├── LedgerUnavailable       the database does not answer or has another schema version
├── RegistryUnavailable     the database of the model registry does not answer, or refuses
│   └── WeightsUnavailable  the folder of a task's weights is away as a whole
├── TrainingFailed          no data, a loss that is not a number, no memory
├── PredictionFailed        a network answers with what is no number
├── OutOfMemory             a network and its pictures do not fit into the device's memory
│   └── NoRoomToMeasure     nor do they while a training looks at its cases, whatever its steps take
├── DiskFull                a file has no room on its disk
└── ProcessLost             a process or machine that took part in a computation is gone
    └── ClusterUnavailable  the Ray cluster does not answer, or has no room at present
"""


class LabelError(Exception):
    """Base of every error that this software raises on purpose."""


class InvalidInput(LabelError, ValueError):
    """Input that cannot be used; the message names what to change."""


class GeometryMismatch(InvalidInput):
    """Two grids that must agree do not."""


class InvalidVolume(InvalidInput):
    """An image array that cannot be a volume."""


class InvalidMask(InvalidInput):
    """A label array that cannot be a mask of its schema."""


class InvalidSegmentation(InvalidInput):
    """A DICOM SEG or a label file that cannot become a mask of a series."""


class InconsistentSeries(InvalidInput):
    """Instances that do not make one volume."""


class UnreadablePixels(InvalidInput):
    """Pixel data that is missing or cannot be decoded."""


class InvalidWeights(InvalidInput):
    """Weights from elsewhere that do not fill a network, or hold more than it has."""


class InvalidTask(InvalidInput):
    """A task file that is wrong; the message names file and line."""


class InvalidSettings(InvalidInput):
    """An option that is wrong; the message names where it came from."""


class NotFound(LabelError):
    """No such series, annotation, job or model version."""


class Conflict(LabelError):
    """The thing is held by somebody else or no longer in the state that the request needs."""


class NoChampion(LabelError):
    """A task has no served model yet."""


class ManifestMismatch(LabelError):
    """The manifest of a model does not fit the task that wants to load it."""


class ArchiveUnavailable(LabelError):
    """The DICOM archive does not answer, or refuses."""


class LedgerUnavailable(LabelError):
    """The ledger's database does not answer, or its schema is of another version."""


class RegistryUnavailable(LabelError):
    """The model registry's database does not answer, or refuses."""


class WeightsUnavailable(RegistryUnavailable):
    """The folder with the weights of all versions of a task is not there, for example not mounted."""


class TrainingFailed(LabelError):
    """A training run could not start or had to stop."""


class PredictionFailed(LabelError):
    """A network answers with what is no number, or fails on one case after the other; the message names the version."""


class OutOfMemory(LabelError):
    """A network and the pictures that it is asked about do not fit into the device's memory."""


class NoRoomToMeasure(OutOfMemory):
    """No memory while a training measures its network, whose steps had enough: something else uses the device."""


class DiskFull(LabelError):
    """A file has no room on its disk; what stood in its place before is still there."""


class ProcessLost(LabelError):
    """A process or a machine that took part in a computation is gone; another attempt goes on from what was kept."""


class ClusterUnavailable(ProcessLost):
    """The cluster that is to compute does not answer, or has no room; nothing was begun."""
