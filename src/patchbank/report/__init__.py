"""Results for people: pictures of one prediction, plots of one evaluation, the HTML report."""
