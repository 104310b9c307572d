"""What is wrong with a person's data: labels that are likely wrong (`suspects`)."""
