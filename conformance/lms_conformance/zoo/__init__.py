"""The zoo: correct reference backends, and broken ones that each property must catch by name."""
