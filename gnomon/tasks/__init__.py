"""Where labelled examples come from: one file per task."""

TASKS: dict[str, str] = {
    "camel_math": "gnomon.tasks.camel_math:CamelMath",
    "capitals": "gnomon.tasks.capitals:Capitals",
    "capitals_choice": "gnomon.tasks.capitals_choice:CapitalsChoice",
    "choice": "gnomon.tasks.choice:Choice",
    "elements_choice": "gnomon.tasks.elements_choice:ElementsChoice",
    "functions": "gnomon.tasks.functions:Functions",
    "gsm8k": "gnomon.tasks.gsm8k:Gsm8k",
    "humaneval": "gnomon.tasks.humaneval:HumanEval",
    "jsonl": "gnomon.tasks.jsonl:Jsonl",
    "logic": "gnomon.tasks.logic:Logic",
    "mawps": "gnomon.tasks.mawps:Mawps",
    "mbpp": "gnomon.tasks.mbpp:Mbpp",
    "products": "gnomon.tasks.products:Products",
    "reasoning_gym": "gnomon.tasks.reasoning_gym:ReasoningGym",
    "risky_choice": "gnomon.tasks.risky_choice:RiskyChoice",
    "slot_machine": "gnomon.tasks.slot_machine:SlotMachine",
    "sums": "gnomon.tasks.sums:Sums",
    "svamp": "gnomon.tasks.svamp:Svamp",
}
