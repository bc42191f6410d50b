"""What the causal steps share: texts to score, conditions to score them under, the worker that does it, the trial.

Above the rooms (it joins models, interventions and methods), below the steps (none of which imports another).
"""
