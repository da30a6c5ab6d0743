"""One file per family: configuration presets and weight names, never a second model class."""
