"""The page in the browser: a form around `weav3r.reconstruct`. No maths lives here."""
