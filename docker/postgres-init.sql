-- One database for the ledger (made by POSTGRES_DB), one for Orthanc's index.
CREATE DATABASE orthanc;
