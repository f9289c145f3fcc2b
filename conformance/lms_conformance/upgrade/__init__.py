"""One release after another: `environment` installs the one before, `old_release` runs there, `predecessor` asks it."""
