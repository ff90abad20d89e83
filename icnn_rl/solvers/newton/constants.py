"""The numbers that Newton's method and its start share with their compiled twin."""

#: Share of the predicted decrease that a step must deliver, and above which the model is trusted more.
ACCEPT, GOOD = 1e-4, 0.5
#: What multiplies the damping after a rejected and after a good step.
HARDER, EASIER = 3.0, 0.1
#: The model's next step along a failed one is at least this share of it.
SHORTEST = 0.1
#: How much more curvature a failed step must have met for the model to be corrected by it.
STIFFER = 1.2
#: Of the start: the share of the variance that one stage leaves to the next, and linear solves a stage.
SHARPER, START_SOLVES = 0.1, 2
