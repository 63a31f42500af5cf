"""What wide networks learn: kernel regression, gradient flow in closed form and by integration, linearized networks."""

from sigprop.dynamics.curves import learning_curve
from sigprop.dynamics.flow import Prediction, gradient_descent, gradient_flow, max_learning_rate
from sigprop.dynamics.gradients import Solution, conjugate_gradients
from sigprop.dynamics.linearized import train_both
from sigprop.dynamics.losses import Outputs, loss_flow
from sigprop.dynamics.posterior import Factor, Posterior, cholesky, posterior
from sigprop.dynamics.selection import CrossValidation, cross_validate
from sigprop.dynamics.watch import Watch

__all__ = [
    "CrossValidation", "Factor", "Outputs", "Posterior", "Prediction", "Solution", "Watch", "cholesky", "conjugate_gradients",
    "cross_validate", "gradient_descent", "gradient_flow", "learning_curve", "loss_flow", "max_learning_rate", "posterior", "train_both",
]
