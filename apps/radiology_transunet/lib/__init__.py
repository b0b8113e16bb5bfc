"""radiology_transunet: TransUNet annotation server on MONAI Label and Orthanc."""
