"""The paper, section by section: curriculum (CCCS), FGO, rewards, PPO, and the supervised phase."""
