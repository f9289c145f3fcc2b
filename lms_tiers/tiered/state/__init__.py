"""What is held: tiers, index, policies, breakers, and the lock that guards them. Calls no backend."""
