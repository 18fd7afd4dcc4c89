"""Tools for maintainers: check a release, test the wheel, execute the tutorials."""
