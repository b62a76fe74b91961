"""Commands that say what there is: models, plugins, schemas, and what this machine can do."""
