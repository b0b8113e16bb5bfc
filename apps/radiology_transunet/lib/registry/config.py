"""Where model versions and their weights live."""

from dataclasses import dataclass, field, replace
from pathlib import Path

DATABASE_NAME = "mlflow.db"
MODELS_NAME = "models"


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Where the registry lives.

    Attributes:
        uri: MLflow's registry, for example sqlite:////srv/var/mlflow.db; empty = SQLite in the state folder.
        models: folder of the weights, one folder a task and a version below it; empty = models/ in the state folder.
    """

    uri: str = field(repr=False)  # may hold a password
    models: str

    def located(self, var: Path) -> "RegistryConfig":
        """The same registry with the empty places filled in from the state folder."""
        uri = self.uri or f"sqlite:///{var / DATABASE_NAME}"
        return replace(self, uri=uri, models=self.models or str(var / MODELS_NAME))
