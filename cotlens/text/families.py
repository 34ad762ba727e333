"""The table of model families: how their templates and parsers delimit thinking.

Splitter, encoder, readers, rewards and guards ask it. A row says what was read, not what is likely:
`source` names package, version and file, and a column that no source tells says "not checked".
docs/families.md is this table. Sources are shortened:

    trl         chat_templates of trl 1.16.0, rendered with transformers 5.23
    llama.cpp   models/templates in llama-cpp-python 0.3.36, rendered likewise
    vllm        parser/ and reasoning/ of vllm 0.33.0
    sglang      srt/parser/reasoning_parser.py of sglang 0.5.23
    renderers   renderers 0.1.12
    public      public source code that uses the model; seen in several repositories
"""

import re
from functools import cache

from cotlens.text.channels import HARMONY, HYPERCLOVA, INKLING, MUSE, S1, SOLAR, XTML
from cotlens.text.tags import NO_TURNS, Family, OnCall, Opens, Tags, Turns

NEVER = Opens.NEVER
ASKED = Opens.ASKED
DEFAULT = Opens.DEFAULT
ALWAYS = Opens.ALWAYS
NOT_CHECKED = Opens.UNKNOWN
ENDS = OnCall.ENDS
STAYS = OnCall.STAYS
APART = OnCall.APART
UNKNOWN = OnCall.UNKNOWN

# What many families share.
THINK = (Tags("<think>", "</think>"),)
TIGHT = Tags("<think>", "</think>")
LINES = Tags("<think>\n", "\n</think>\n")
SPACED = Tags("<think>\n", "\n</think>\n\n")
TOOL_CALL = (Tags("<tool_call>", "</tool_call>"),)
KIMI_CALLS = (Tags("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),)
MISTRAL_CALLS = (Tags("[TOOL_CALLS]", "</s>"),)
DEEPSEEK_CALLS = (
    Tags("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    Tags("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
)
DSML_CALLS = (
    Tags("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"),
    Tags("<｜DSML｜ calls>", "</｜DSML｜ calls>"),
)
HUNYUAN_CALLS = (Tags("<tool_calls>", "</tool_calls>"),)
COHERE_CALLS = (Tags("<|START_ACTION|>", "<|END_ACTION|>"),)
LONGCAT = (Tags("<longcat_think>", "</longcat_think>"),)
LONGCAT_CALLS = (Tags("<longcat_tool_call>", "</longcat_tool_call>"),)
APRIEL = (Tags("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),)
APRIEL_ANSWER = (Tags("", "[END FINAL RESPONSE]"), Tags("", "<|end|>"))
# Quantized models were seen to write the short form (vllm granite).
GRANITE = (
    Tags("Here is my thought process:", "Here is my response:"),
    Tags("Here's my thought process:", "Here's my response:"),
    Tags("Here is my thought process:", "Here's my response:"),
    Tags("Here's my thought process:", "Here is my response:"),
)
ANSWER = Tags("<answer>", "</answer>")
RESPONSE = Tags("<response>", "</response>")
COHERE_ANSWER = (
    Tags("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    Tags("<|START_TEXT|>", "<|END_TEXT|>"),
)
XTML_TAGS = Tags("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>")
HARMONY_TAGS = Tags(
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
)
SOLAR_TAGS = Tags("<|think|>", "<|end|><|begin|>assistant<|content|>")
HYPERCLOVA_TAGS = Tags("<|im_start|>assistant/think\n", "<|im_end|>\n<|im_start|>assistant\n")
S1_TAGS = Tags("<|im_start|>think\n", "\n<|im_start|>answer\n")
MUSE_TAGS = Tags(" to=self<|message|>", "<|eom|><|start|>assistant to=user<|message|>")
INKLING_TAGS = Tags("<|content_thinking|>", "<|end_message|><|message_model|><|content_text|>")
COHERE_TAGS = Tags("<|START_THINKING|>", "<|END_THINKING|>")
INNER = Tags("<|inner_prefix|>", "<|inner_suffix|>")
MM_THINK = Tags("<mm:think>", "</mm:think>")
MISTRAL_THINK = Tags("[THINK]", "[/THINK]")
IFM_THINK = (
    Tags("<ifm|think>", "</ifm|think>"),
    Tags("<ifm|think_fast>", "</ifm|think_fast>"),
    Tags("<ifm|think_faster>", "</ifm|think_faster>"),
)
IFM_CALLS = (
    Tags("<ifm|tool_calls>", "</ifm|tool_calls>"),
    Tags("<ifm|tool_call>", "</ifm|tool_call>"),
)
PROMPTED = (
    Tags("<thinking>", "</thinking>"),
    Tags("<reasoning>", "</reasoning>"),
    Tags("<start_working_out>", "<end_working_out>"),
)
NOBODY = r"(?!)"  # no model has its name from this family
CHATML = Turns(("<|im_start|>assistant",), ("<|im_end|>", "<|im_start|>"))
DEEPSEEK = Turns(("<｜Assistant｜>",), ("<｜end▁of▁sentence｜>", "<｜User｜>"))
GLM = Turns(("<|assistant|>",), ("<|user|>", "<|observation|>", "<|endoftext|>"))
MINIMAX = Turns(("]~b]ai",), ("[e~[", "]~b]"))
KIMI = Turns(
    ("<|im_assistant|>assistant<|im_middle|>",), ("<|im_end|>", "<|im_user|>", "<|im_system|>")
)
MISTRAL = Turns(("[/INST]",), ("</s>", "[INST]"))
GEMMA = Turns(("<|turn>model",), ("<turn|>", "<|turn>"))
COHERE = Turns(("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",), ("<|END_OF_TURN_TOKEN|>",))
GRANITE_TURNS = Turns(
    ("<|start_of_role|>assistant<|end_of_role|>",), ("<|end_of_text|>", "<|start_of_role|>")
)
LONGCAT_TURNS = Turns(("<longcat_assistant>",), ("</longcat_s>", "<longcat_user>"))
LING = Turns(
    ("<role>ASSISTANT</role>",),
    ("<|role_end|>", "<role>HUMAN</role>", "<role>OBSERVATION</role>"),
)
LAGUNA = Turns(("<assistant>",), ("</assistant>", "<user>", "<tool_response>"))
EXAONE = Turns(("[|assistant|]",), ("[|endofturn|]", "[|user|]", "[|tool|]"))
HUNYUAN = Turns(
    ("<｜hy_Assistant｜>", "<｜hy_Assistant:opensource｜>"),
    ("<｜hy_User｜>", "<｜hy_User:opensource｜>"),
)
# Templates that have no thinking of their own, and plain transcripts.
OTHERS = (
    Turns(
        ("<|start_header_id|>assistant<|end_header_id|>",), ("<|eot_id|>", "<|start_header_id|>")
    ),
    Turns(("<start_of_turn>model",), ("<end_of_turn>", "<start_of_turn>")),
)

# Columns: name; pattern of models; delimiters; the same as the template writes them; whether the
# template opens the thought; turns; tool calls; what a call does to an open thought.
# fmt: off
FAMILIES = (
    Family("DeepSeek R1 and its distills", r"deepseek-?r1|r1-distill|realsafe-r1", THINK, SPACED,
           ALWAYS, DEEPSEEK, DEEPSEEK_CALLS, STAYS,
           source="trl deepseek_r1_distill; vllm deepseek_r1; sglang deepseek-r1"),
    Family("DeepSeek V3.1, V3.2", r"deepseek-?(?:chat-?)?v3\.[1-9]", THINK, TIGHT, ASKED,
           DEEPSEEK, DEEPSEEK_CALLS, STAYS,
           source="llama.cpp DeepSeek-V3.1, V3.2; vllm deepseek_v3, deepseek_v32"),
    Family("DeepSeek V4", r"deepseek-?v4", THINK, TIGHT, ASKED, DEEPSEEK, DSML_CALLS, ENDS,
           source="llama.cpp DeepSeek-V4, V4-Flash; vllm deepseek_v4, deepseek_v41"),
    Family("Qwen3 Thinking", r"qwen3[\w.-]*-thinking", THINK, SPACED, ALWAYS, CHATML, TOOL_CALL,
           ENDS,
           source="renderers qwen3; vllm qwen3; sglang qwen3-thinking"),
    Family("Qwen3.5, 2B and smaller", r"qwen-?3\.5-(?:0\.8|2)b", THINK, SPACED, ASKED, CHATML,
           TOOL_CALL, ENDS,
           source="trl qwen3_5_nothink; vllm qwen3; sglang qwen3"),
    Family("Qwen3.5, 3.6, 3.8", r"qwen-?3\.[5-9]", THINK, SPACED, DEFAULT, CHATML, TOOL_CALL,
           ENDS,
           source="trl qwen3_5_think, qwen3_6, qwen3_8; vllm qwen3; sglang qwen3"),
    Family("Qwen3", r"qwen-?3", THINK, SPACED, NEVER, CHATML, TOOL_CALL, ENDS,
           source="trl qwen3; vllm qwen3; sglang qwen3"),
    Family("QwQ-32B", r"qwq-32b(?!-preview)", THINK, SPACED, ALWAYS, CHATML, TOOL_CALL, STAYS,
           source="llama.cpp Qwen-QwQ-32B; vllm deepseek_r1"),
    Family("GLM-5.3", r"glm-?5\.[3-9]", THINK, TIGHT, ALWAYS, GLM, TOOL_CALL, ENDS,
           source="sglang glm53_chat_template.py; vllm glm47_moe"),
    Family("GLM-4.7, GLM-5", r"glm-?(?:4\.[7-9]|5)", THINK, TIGHT, DEFAULT, GLM, TOOL_CALL, ENDS,
           source="llama.cpp GLM-4.7-Flash; vllm glm47_moe; sglang glm45"),
    Family("GLM-4.5, GLM-4.6", r"glm-?4\.[56]", THINK, Tags("\n<think>", "</think>\n"), NEVER,
           GLM, TOOL_CALL, ENDS,
           source="trl glm4moe; llama.cpp GLM-4.6; vllm glm47_moe; sglang glm45"),
    Family("Kimi K3", r"kimi-?k3",
           (XTML_TAGS,),
           XTML_TAGS, DEFAULT,
           Turns(('<|open|>message role="assistant"<|sep|>',), ("<|end_of_msg|>",)), (), ENDS,
           channels=XTML,
           source="llama.cpp Kimi-K3; vllm kimi_k3; sglang kimi_k3"),
    Family("Kimi K2.5, K2.6", r"kimi-?k2\.[5-9]", THINK, TIGHT, DEFAULT, KIMI, KIMI_CALLS, ENDS,
           source="renderers kimi_k25; vllm kimi_k2; sglang kimi_k2"),
    Family("Kimi K2", r"kimi-?k2", THINK, TIGHT, NEVER, KIMI, KIMI_CALLS, ENDS,
           source="llama.cpp Kimi-K2-Thinking; vllm kimi_k2; sglang kimi_k2"),
    Family("Kimi VL, K1.5", r"kimi", (Tags("◁think▷", "◁/think▷"),), None, NEVER, KIMI, (),
           UNKNOWN,
           source="sglang kimi"),
    Family("MiniMax M3", r"minimax-?m3", (MM_THINK,),
           MM_THINK, ASKED, MINIMAX,
           (Tags("]<]minimax[>[<tool_call>", "]<]minimax[>[</tool_call>"),), STAYS,
           source="llama.cpp MiniMax-M3; vllm minimax_m3; sglang minimax-m3"),
    Family("MiniMax M2", r"minimax-?m2", THINK, SPACED, ALWAYS, MINIMAX,
           (Tags("<minimax:tool_call>", "</minimax:tool_call>"),), ENDS,
           source="llama.cpp MiniMax-M2; renderers minimax_m2; vllm minimax_m2"),
    Family("MiniMax M1", r"minimax-?m1", THINK, None, NEVER,
           Turns(("<beginning_of_sentence>ai name=assistant",),
                 ("<end_of_sentence>", "<beginning_of_sentence>")),
           (), UNKNOWN,
           source="llama.cpp MiniMax-M1"),
    Family("Nemotron Nano v2", r"nemotron-nano-(?:\d+b-)?v2", THINK, LINES, DEFAULT,
           Turns(("<SPECIAL_11>Assistant",), ("<SPECIAL_11>", "<SPECIAL_12>")),
           (Tags("<TOOLCALL>", "</TOOLCALL>"),), STAYS,
           source="llama.cpp NVIDIA-Nemotron-Nano-v2; chat-diff-analyzer.cpp"),
    Family("Nemotron 3.5", r"nemotron-3\.5|nemotron-3-ultra", THINK,
           Tags("<think>\n", "</think>"), DEFAULT, CHATML, TOOL_CALL, ENDS,
           source="trl nemotron_3_5_lightning, nemotron_3_ultra; vllm nemotron_v3"),
    Family("Nemotron 3", r"nemotron-3", THINK, LINES, DEFAULT, CHATML, TOOL_CALL, ENDS,
           source="trl nemotron_3_nano, nemotron_3_super; vllm nemotron_v3; sglang nemotron_3"),
    Family("gpt-oss", r"gpt-?oss",
           (HARMONY_TAGS,),
           HARMONY_TAGS,
           NEVER, Turns(("<|start|>assistant",), ("<|end|>", "<|return|>", "<|start|>")), (),
           ENDS, channels=HARMONY,
           source="trl gptoss; vllm harmony; sglang gpt-oss, beam"),
    Family("Gemma 4", r"gemma-?4|diffusion-?gemma", (Tags("<|channel>thought\n", "<channel|>"),),
           Tags("<|channel>thought\n", "\n<channel|>"), NEVER, GEMMA,
           (Tags("<|tool_call>", "<tool_call|>"),), ENDS,
           source="trl gemma4 (5 revisions), diffusion_gemma; llama.cpp gemma-4-31B; vllm gemma4"),
    Family("Magistral, Ministral 3", r"magistral|ministral-?3", (MISTRAL_THINK,),
           MISTRAL_THINK, NEVER, MISTRAL, MISTRAL_CALLS, ENDS,
           source="llama.cpp Ministral-3-14B-Reasoning; vllm mistral; sglang mistral"),
    Family("Seed-OSS", r"seed-?oss", (Tags("<seed:think>", "</seed:think>"),),
           Tags("<seed:think>", "</seed:think>\n"), NEVER,
           Turns(("<seed:bos>assistant",), ("<seed:eos>", "<seed:bos>")),
           (Tags("<seed:tool_call>", "</seed:tool_call>"),), ENDS,
           source="llama.cpp ByteDance-Seed-OSS; vllm seed_oss"),
    Family("Olmo 3 Think", r"olmo-?3[\w.-]*-think", THINK, TIGHT, ALWAYS,
           CHATML, (Tags("<function_calls>", "</function_calls>"),), STAYS,
           source="public; vllm olmo3"),
    Family("Hunyuan A13B", r"hunyuan", THINK, LINES, NEVER, HUNYUAN, HUNYUAN_CALLS, UNKNOWN,
           wrappers=(ANSWER,),
           source="vllm hunyuan_a13b"),
    Family("Hy3", r"\bhy-?(?:v?3)", THINK, TIGHT, ASKED, HUNYUAN, HUNYUAN_CALLS, ENDS,
           source="llama.cpp tencent-Hy3; renderers hy3; vllm hy_v3; sglang hunyuan"),
    Family("HY-4", r"\bhy-?(?:v?4)", THINK, TIGHT, DEFAULT, HUNYUAN, HUNYUAN_CALLS, ENDS,
           source="vllm hy_v4; sglang hunyuan"),
    Family("Cohere Command A reasoning", r"command-?a-(?:reasoning|plus)",
           (COHERE_TAGS,),
           COHERE_TAGS, DEFAULT, COHERE, COHERE_CALLS, ENDS,
           wrappers=COHERE_ANSWER,
           source="llama.cpp Cohere2MoE; vllm cohere_command; sglang cohere_command4"),
    Family("Cohere Command R7B", r"command-?(?:r7b|a)",
           (COHERE_TAGS,),
           COHERE_TAGS, NEVER, COHERE, COHERE_CALLS, ENDS,
           wrappers=COHERE_ANSWER,
           source="llama.cpp c4ai-command-r7b; vllm cohere_command"),
    Family("Apertus", r"apertus", (INNER,),
           INNER, NEVER,
           Turns(("<|assistant_start|>",), ("<|assistant_end|>", "<|user_start|>")),
           (Tags("<|tools_prefix|>", "<|tools_suffix|>"),), APART,
           source="llama.cpp Apertus-8B; sglang apertus2509"),
    Family("Apriel 1.6", r"apriel-?1\.[6-9]", APRIEL,
           Tags("Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n"), ALWAYS,
           Turns(("<|begin_assistant|>",), ("<|end|>", "<|begin_user|>")),
           (Tags("<tool_calls>", "</tool_calls>"),), UNKNOWN, wrappers=APRIEL_ANSWER,
           source="llama.cpp Apriel-1.6-15b-Thinker; chat-diff-analyzer.cpp"),
    Family("Apriel 1.5", r"apriel", APRIEL,
           Tags("Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n"), NEVER,
           Turns(("<|assistant|>",), ("<|end|>", "<|user|>")),
           (Tags("<tool_calls>", "</tool_calls>"),), UNKNOWN, wrappers=APRIEL_ANSWER,
           source="llama.cpp unsloth-Apriel-1.5; public"),
    Family("Granite 3.2", r"granite-?3\.2", GRANITE,
           Tags("Here is my thought process:\n\n", "\n\nHere is my response:\n\n"), NEVER,
           GRANITE_TURNS, (), UNKNOWN,
           source="vllm granite"),
    Family("Granite 3.3", r"granite-?3\.3", THINK, TIGHT, NEVER, GRANITE_TURNS, (), UNKNOWN,
           wrappers=(RESPONSE,),
           source="llama.cpp granite-3.3-2B; chat-diff-analyzer.cpp"),
    Family("Granite 4.2", r"granite-?4\.[2-9]", THINK, LINES, NOT_CHECKED, GRANITE_TURNS,
           TOOL_CALL, ENDS,
           source="vllm granite_thinking; sglang granite_thinking_parser"),
    Family("Granite 4.0, 4.1 (no thinking)", r"granite-?4", THINK, None, NEVER, GRANITE_TURNS,
           (), UNKNOWN,
           source="llama.cpp granite-4.0, granite-4.1"),
    Family("Solar Open2", r"solar-?(?:open-?2|pro-?4)",
           (Tags("<|think:start|>", "<|think:end|>"),), None, DEFAULT,
           Turns(("<|im:start|>assistant<|im:content|>",), ("<|im:end|>", "<|im:start|>")),
           (Tags("<|tool_call:start|>", "<|tool_call:end|>"),), UNKNOWN,
           source="public"),
    Family("Solar Open", r"solar-?open",
           (SOLAR_TAGS,),
           SOLAR_TAGS, NEVER,
           Turns(("<|begin|>assistant",), ("<|end|>", "<|begin|>")), (), ENDS, channels=SOLAR,
           source="llama.cpp Solar-Open-100B; chat-diff-analyzer.cpp"),
    Family("K2 Horizon", r"k2-?(?:horizon|v3)",
           IFM_THINK,
           None, ALWAYS, NO_TURNS,
           IFM_CALLS,
           ENDS,
           source="vllm k2_horizon; sglang k2_horizon"),
    Family("LongCat Thinking", r"longcat[\w.-]*-thinking", LONGCAT, None, DEFAULT, LONGCAT_TURNS,
           LONGCAT_CALLS, UNKNOWN,
           source="public"),
    Family("LongCat", r"longcat", LONGCAT, None, ASKED, LONGCAT_TURNS, LONGCAT_CALLS, UNKNOWN,
           source="public; vllm longcat_tool_parser.py"),
    Family("PLaMo 3", r"plamo-?3",
           (Tags("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),), None,
           NOT_CHECKED, Turns((), ("<|plamo:tag|>",)),
           (Tags("<|plamo:begin_tool_requests:plamo|>", "<|plamo:end_tool_requests:plamo|>"),),
           ENDS,
           source="vllm plamo3"),
    Family("openPangu", r"pangu", (Tags("[unused16]", "[unused17]"),), None, NEVER, NO_TURNS, (),
           UNKNOWN, wrappers=(Tags("", "[unused10]"),),
           source="public"),
    Family("HyperCLOVA X Think", r"hyperclova",
           (HYPERCLOVA_TAGS,),
           HYPERCLOVA_TAGS, ASKED,
           CHATML, (), ENDS, channels=HYPERCLOVA,
           source="public"),
    Family("Marco-o1", r"marco-?o1", (Tags("<Thought>", "</Thought>"),), None, NEVER, CHATML, (),
           UNKNOWN, wrappers=(Tags("<Output>", "</Output>"),),
           source="public"),
    Family("s1", r"(?:^|/)s1(?:\.\d)?-\d+b",
           (S1_TAGS,),
           S1_TAGS, NEVER, CHATML, (), UNKNOWN,
           channels=S1,
           source="public"),
    Family("Step 3.5, 3.7", r"step-?3[.p][5-9](?:-flash|$)", THINK, LINES, ALWAYS, CHATML,
           TOOL_CALL, ENDS,
           source="llama.cpp StepFun3.5-Flash; vllm step3p5"),
    Family("Ling 3", r"\bling-?3", THINK, TIGHT, DEFAULT, LING, TOOL_CALL, ENDS,
           source="llama.cpp ling-3.0-flash; vllm ling3; sglang ling3"),
    Family("LFM2.5", r"lfm-?2\.5", THINK, TIGHT, NEVER, CHATML,
           (Tags("<|tool_call_start|>", "<|tool_call_end|>"),), STAYS,
           source="trl lfm2_2_5; llama.cpp LFM2.5-8B-A1B"),
    Family("Laguna S", r"laguna-s", THINK, TIGHT, DEFAULT, LAGUNA, TOOL_CALL, ENDS,
           source="llama.cpp Laguna-S-2.1; renderers laguna_s21; sglang poolside_v1"),
    Family("Laguna XS, M", r"laguna", THINK, LINES, ASKED, LAGUNA, TOOL_CALL, ENDS,
           source="llama.cpp Laguna-XS.2, XS-2.1; renderers laguna_xs2; sglang poolside_v1"),
    Family("Spark 2.5", r"spark-?2\.5", THINK, TIGHT, DEFAULT,
           Turns(("<|Bot|>",), ("<｜end▁of▁sentence｜>", "<｜start▁of▁sentence｜>")), TOOL_CALL,
           UNKNOWN,
           source="llama.cpp Spark2.5"),
    Family("Reka Edge", r"reka", THINK, None, ASKED, Turns(("<sep>assistant:",), ("<sep>",)),
           TOOL_CALL, UNKNOWN,
           source="llama.cpp Reka-Edge"),
    Family("Bielik 3", r"bielik", THINK, LINES, ASKED, CHATML, TOOL_CALL, UNKNOWN,
           source="llama.cpp Bielik-11B-v3.0"),
    Family("Muse Glimmer, Muse Spark", r"muse-?(?:glimmer|spark)",
           (MUSE_TAGS,),
           MUSE_TAGS, NEVER,
           Turns(("<|start|>assistant",), ("<|eot|>", "<|eom|>", "<|start|>")), (), ENDS,
           channels=MUSE,
           source="trl muse_glimmer; vllm muse; sglang muse"),
    Family("Inkling", r"inkling",
           (INKLING_TAGS,),
           INKLING_TAGS,
           NEVER, Turns(("<|message_model|>",), ("<|end_message|>", "<|message_user|>")), (),
           ENDS, channels=INKLING,
           source="renderers inkling; vllm inkling; sglang inkling"),
    Family("EXAONE Deep", r"exaone-?deep", (Tags("<thought>", "</thought>"),),
           Tags("<thought>\n", "\n</thought>\n\n"), ALWAYS, EXAONE, (), UNKNOWN,
           source="public"),
    Family("EXAONE 4", r"exaone-?4", THINK, SPACED, ASKED, EXAONE, TOOL_CALL, UNKNOWN,
           source="transformers 5.23, documentation of EXAONE 4"),
    Family("ERNIE 4.5 Thinking", r"ernie-?4\.5[\w.-]*-thinking", THINK, SPACED, ALWAYS, CHATML,
           (), UNKNOWN, wrappers=(RESPONSE,),
           source="vllm ernie45; public"),
    Family("SmolLM3", r"smollm3", THINK, LINES, NEVER, CHATML, TOOL_CALL, UNKNOWN,
           source="llama.cpp SmolLM3-3B"),
    Family("MiMo", r"\bmimo\b", THINK, None, NEVER, CHATML, TOOL_CALL, ENDS,
           source="llama.cpp MiMo-VL; vllm mimo; sglang mimo"),
    Family("MiniCPM5", r"minicpm-?5", THINK, SPACED, ASKED, CHATML, (), UNKNOWN,
           source="llama.cpp MiniCPM5-1B"),
    Family("Intern-S1, Nanbeige, dots", r"intern-?s1|nanbeige|\bdots\b", THINK, None,
           NOT_CHECKED, NO_TURNS, TOOL_CALL, ENDS,
           source="sglang interns1, nanbeige, dots"),
    Family("Phi-4 reasoning, Hermes 4, Ring, Step 3",
           r"phi-?4[\w-]*reasoning|hermes-?4|\bring-|(?:^|/)step-?3(?:-|$)", THINK, None,
           NOT_CHECKED, NO_TURNS, (), UNKNOWN,
           source="vllm step3; the others not checked"),
    Family("OpenThinker, Sky-T1", r"openthinker|sky-t1",
           (Tags("<|begin_of_thought|>", "<|end_of_thought|>"),), None, NEVER, CHATML, (),
           UNKNOWN, wrappers=(Tags("<|begin_of_solution|>", "<|end_of_solution|>"),),
           source="public"),
    Family("models that are asked to think between tags", NOBODY,
           PROMPTED,
           None, NEVER, NO_TURNS, (), UNKNOWN,
           wrappers=(ANSWER, RESPONSE, Tags("<solution>", "</solution>")),
           source="public"),
)
# fmt: on


@cache
def family_of(model: str) -> Family | None:
    """The row of a model with this name, or None."""
    for family in FAMILIES:
        if re.search(family.models, model, re.IGNORECASE):
            return family
    return None


# Models whose providers document that they show only summaries of the thinking: OpenAI's reasoning
# models, Gemini from 2.5, Claude from 4. Text in a separate field is not their thinking.
_SUMMARISES = re.compile(
    r"(?:gpt-5|o[134]|codex-mini)(?:$|[-@.].*)"
    r"|gemini-(?:2[.-]5|[3-9]|(?:pro|flash|flash-lite)-latest).*"
    r"|claude-(?:[4-9]|(?:opus|sonnet|haiku)-[4-9]).*"
)
_PROVIDER = re.compile(
    r"(?:azure|openai|anthropic|google|vertex|gemini|bedrock|openrouter|databricks"
    r"|amazon|aws|litellm|github|models|us|eu|apac"
    r"|global)\w*"
)
_OPEN_WEIGHTS = re.compile(r"distill|qwen|llama|mistral|\d+b(?:\b|-)|checkpoint|lora")


def gives_summaries(model: str) -> bool:
    """Whether a hosted model's provider is known to return a summary when asked for the thinking.

    The name may follow its provider's (`openrouter/anthropic/claude-sonnet-4`, `openai:o3`,
    `databricks-gpt-5`) and precede a variant (`:thinking`); with another folder or organisation
    before it, it is somebody's own model.
    """
    *before, last = re.sub(
        r"^(?:(?:us|eu|apac|global)\.)?(\w+)(?:--|\.|-)(?=claude|gpt-5|gemini)",
        r"\1/",
        model.lower(),
    ).split("/")
    providers, _, name = (
        last.partition(":") if _PROVIDER.fullmatch(last.partition(":")[0]) else ("", "", last)
    )
    known = all(_PROVIDER.fullmatch(one) for one in [*before, providers] if one)
    return (
        known
        and bool(_SUMMARISES.fullmatch(name.partition(":")[0]))
        and not _OPEN_WEIGHTS.search(name)
    )
