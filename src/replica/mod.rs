//! Starts and stops one replica, as a transaction with an undo for each step.
