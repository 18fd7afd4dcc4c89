"""Pages of the documentation site that are made when it is built, from the code that they describe."""
