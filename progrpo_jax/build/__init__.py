"""From a config to the stages of a run; the only code between both."""
