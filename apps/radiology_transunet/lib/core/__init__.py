"""Values with geometry, label schemas, metrics and errors; numpy and scipy alone."""
