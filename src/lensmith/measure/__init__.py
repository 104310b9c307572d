"""What can be said of a classifier's answers, and how sure it is: figures with their uncertainty, and comparisons."""
