"""Volume to Prediction."""
