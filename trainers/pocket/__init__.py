"""The pocket world: a small synthetic world with known truth, and tiny models trained on it.

It is the project's reproducible experiment, a quarter of an hour per seed on two CPU cores. Topics
are invented, excuses are scripted, and the role of every sentence is known, so what cotlens
measures of SFT and RL can be compared with the truth. It demonstrates methods; it is not evidence
about real models.

The world:

    wording     the topics, and every sentence of prompts and traces
    world       the prompts of a seed, in splits
    writer      collects the sentences of a trace, each with its role
    sums        how sums and puzzles are worked out
    policy      writers of traces: a base policy that slips and makes excuses, and two teachers
    oracle      what a text really does, read from it alone; the exact judge
    puzzles     how a completion works a puzzle: attempts, verdicts, returns
    tokenizer   one token a word, over the world's closed vocabulary
    base        the base model: trained from nothing, and sampled
    guard       the learned guard that rewards ask, which is sometimes wrong
    branching   where the base policy could have gone on differently, and its entropy there

The experiment:

    plan        how much of everything, and what one arm has to work with
    optimise    SFT, GRPO and DPO of a model for the plan's updates, and the rewards
    pool        the base's own samples for the training prompts
    arms        the arms: functions that leave a trained model
    recap_arms  arms of RECAP: GRPO from flawed beginnings of a thought
    ipo_arms    arms of IPO: preferences from the cue of compliance on
    cog_arms    arms of Chain-of-Guardrails: own failures, repaired or with a check
    own_arms    arms of ThinkSafe and DGR: the base's own words
    rlvr_arms   arms of RLVR: rewards that can be verified
    r2d_arms    arms of R2D: steps that end with a verdict
    path        what an arm does after a few updates, for learning rates and frontiers
    tune        learning rates, tried on development seeds
    depth       recovery from injected thoughts, what going back is worth, returns
    measure     what is measured of a finished arm
    interventions  what an arm makes of thoughts that are cut and changed
    progress    how far a job is, and the time left of the whole
    jobs        trains and measures an arm, in a process of its own
    crew        runs jobs side by side, and shows one line for all
    tables      an arm's tables: the truth next to what cotlens measured
    figures     figures that need the truth
    probe_figures  figures of thoughts that were cut and changed
    report      from runs to a study, and from a study to figures
    experiment  the command line

Two commands:

    python -m trainers.pocket.experiment -o runs/pocket   # train, measure and draw
    python -m trainers.pocket.report STUDY -o DIR         # draw the figures of a stored study
"""
