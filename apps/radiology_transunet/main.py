"""What MONAI Label loads: `python -m monailabel.main start_server --app apps/radiology_transunet --studies URL`."""

from lib.server.app import TransUNetApp

__all__ = ["TransUNetApp"]
