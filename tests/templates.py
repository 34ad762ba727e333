"""What the chat templates of model families write around a thought.

Rendered from the sources that cotlens/text/families.py names: the model, the end of a prompt with thinking on and with it off, what
the model then writes before a thought, after it, and after the answer, a tool call, what stands between the call and the thought of
the next turn, and what an answer without a thought begins with.
"""

from typing import NamedTuple


class Template(NamedTuple):
    model: str
    on: str
    off: str | None
    open: str
    close: str
    end: str = ""
    call: str = ""
    between: str = ""
    direct: str = ""


IM = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
IM_TOOL = "<|im_end|>\n<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n"
JSON_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
XML_CALL = "<tool_call>\n<function=add>\n<parameter=a>\n2\n</parameter>\n</function>\n</tool_call>"
GLM_CALL = "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n</tool_call>"
DS = "<｜User｜>2+2?<｜Assistant｜>"
DSML = '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="add">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
DSML_TOOL = "<｜end▁of▁sentence｜><｜User｜><tool_result>4</tool_result><｜Assistant｜><think>"
KIMI = "<|im_user|>user<|im_middle|>2+2?<|im_end|><|im_assistant|>assistant<|im_middle|>"
KIMI_CALL = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    "<|tool_calls_section_end|>"
)
KIMI_TOOL = "<|im_end|><|im_system|>add<|im_middle|>4<|im_end|><|im_assistant|>assistant<|im_middle|><think>"
K3 = '<|open|>message role="user"<|sep|>2+2?<|close|>message<|sep|><|end_of_msg|><|open|>message role="assistant"<|sep|>'
MM = "]~b]user\n2+2?[e~[\n]~b]ai\n"
MM_CALL = '<minimax:tool_call>\n<invoke name="add">\n</invoke>\n</minimax:tool_call>'
COHERE = "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>2+2?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
GRANITE = "<|start_of_role|>user<|end_of_role|>2+2?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"
HY = "<｜hy_User:opensource｜>2+2?<｜hy_Assistant:opensource｜>"
GEMMA = "<|turn>user\n2+2?<turn|>\n<|turn>model\n"
MUSE = "<|start|>user<|message|>2+2?<|eot|><|start|>assistant"
OSS = "<|start|>user<|message|>2+2?<|end|><|start|>assistant"
SOLAR = "<|begin|>user<|content|>2+2?<|end|><|begin|>assistant"

TEMPLATES = [
    Template("Qwen/Qwen3-8B", IM, IM + "<think>\n\n</think>\n\n", "<think>\n", "\n</think>\n\n", "<|im_end|>", JSON_CALL, IM_TOOL),
    Template("Qwen/Qwen3-30B-A3B-Thinking-2507", IM + "<think>\n", None, "", "\n</think>\n\n", "", JSON_CALL, IM_TOOL),
    Template("Qwen/Qwen3.5-35B-A3B", IM + "<think>\n", IM + "<think>\n\n</think>\n\n", "", "\n</think>\n\n", "", XML_CALL, IM_TOOL),
    Template("Qwen/Qwen3.6-27B", IM + "<think>\n", IM + "<think>\n\n</think>\n\n", "", "\n</think>\n\n", "", XML_CALL, IM_TOOL),
    Template("Qwen/Qwen3.8-27B", IM + "<think>\n", IM + "<think>\n\n</think>\n\n", "", "\n</think>\n\n", "", XML_CALL, IM_TOOL),
    Template("Qwen/QwQ-32B", IM + "<think>\n", None, "", "\n</think>\n\n", "", JSON_CALL),
    Template("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", DS + "<think>\n", None, "", "\n</think>\n\n"),
    Template("deepseek-ai/DeepSeek-V3.1", DS + "<think>", DS + "</think>", "", "</think>"),
    Template("deepseek-ai/DeepSeek-V3.2", DS + "<think>", DS + "<think></think>", "", "</think>"),
    Template("deepseek-ai/DeepSeek-V4", DS + "<think>", DS + "</think>", "", "</think>", "", DSML, DSML_TOOL),
    Template("zai-org/GLM-4.5", "<|user|>\n2+2?<|assistant|>", "<|user|>\n2+2?/nothink<|assistant|>\n<think></think>", "\n<think>", "</think>\n", "", GLM_CALL, "<|observation|>\n<tool_response>\n4\n</tool_response>\n<|assistant|>\n<think>"),
    Template("zai-org/GLM-4.7", "<|user|>2+2?<|assistant|><think>", "<|user|>2+2?<|assistant|></think>", "", "</think>", "", GLM_CALL, "<|observation|><tool_response>4</tool_response><|assistant|><think>"),
    Template("zai-org/GLM-5.3", "<|user|>2+2?<|assistant|><think>", None, "", "</think>", "", GLM_CALL, "<|observation|><tool_response>4</tool_response><|assistant|><think>"),
    Template("moonshotai/Kimi-K2-Thinking", KIMI, None, "<think>", "</think>", "<|im_end|>", KIMI_CALL, KIMI_TOOL),
    Template("moonshotai/Kimi-K2.5", KIMI + "<think>", KIMI + "<think></think>", "", "</think>", "", KIMI_CALL, KIMI_TOOL),
    Template("moonshotai/Kimi-K3", K3 + "<|open|>think<|sep|>", K3 + "<|open|>think<|sep|><|close|>think<|sep|>", "", "<|close|>think<|sep|><|open|>response<|sep|>", "<|close|>response<|sep|><|close|>message<|sep|><|end_of_msg|>", '<|open|>tools<|sep|><|open|>call tool="add" index="1"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>', '<|close|>message<|sep|><|end_of_msg|><|open|>message role="tool"<|sep|>4<|close|>message<|sep|><|end_of_msg|><|open|>message role="assistant"<|sep|><|open|>think<|sep|>', direct="<|open|>response<|sep|>"),
    Template("MiniMaxAI/MiniMax-M1-80k", "<beginning_of_sentence>user name=user\n2+2?<end_of_sentence>\n<beginning_of_sentence>ai name=assistant\n", None, "<think>\n", "\n</think>\n"),
    Template("MiniMaxAI/MiniMax-M2.1", MM + "<think>\n", None, "", "\n</think>\n\n", "[e~[", MM_CALL, "[e~[\n]~b]tool\n<response>4</response>[e~[\n]~b]ai\n<think>\n"),
    Template("MiniMaxAI/MiniMax-M3", MM, MM + "</mm:think>", "<mm:think>", "</mm:think>", "", "]<]minimax[>[<tool_call>\n]<]minimax[>[</tool_call>"),
    Template("MiniMaxAI/MiniMax-M3", MM + "<mm:think>", None, "", "</mm:think>", "", "]<]minimax[>[<tool_call>\n]<]minimax[>[</tool_call>"),
    Template("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "<SPECIAL_11>User\n2+2?\n<SPECIAL_11>Assistant\n<think>\n", "<SPECIAL_11>User\n2+2?\n<SPECIAL_11>Assistant\n<think></think>", "", "\n</think>\n", "\n<SPECIAL_12>", '<TOOLCALL>[{"name": "add"}]</TOOLCALL>'),
    Template("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", IM + "<think>\n", IM + "<think></think>", "", "\n</think>\n", "", XML_CALL, IM_TOOL),
    Template("nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16", IM + "<think>\n", IM + "<think></think>", "", "</think>", "", XML_CALL, IM_TOOL),
    Template("openai/gpt-oss-20b", OSS, None, "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", "<|return|>", "<|end|><|start|>assistant to=functions.add<|channel|>commentary json<|message|>{}<|call|>", "<|start|>functions.add to=assistant<|channel|>commentary<|message|>4<|end|><|start|>assistant<|channel|>analysis<|message|>", direct="<|channel|>final<|message|>"),
    Template("google/gemma-4-E4B-it", GEMMA, None, "<|channel>thought\n", "\n<channel|>", "<turn|>", '<|tool_call>call:add{a:2}<tool_call|>', "<|tool_response>response:add{r:4}<tool_response|><turn|>\n<|turn>model\n<|channel>thought\n"),
    Template("google/gemma-4-31B-it", GEMMA, GEMMA + "<|channel>thought\n<channel|>", "<|channel>thought\n", "\n<channel|>", "", '<|tool_call>call:add{a:2}<tool_call|>'),
    Template("mistralai/Ministral-3-14B-Reasoning-2512", "[INST]2+2?[/INST]", None, "[THINK]", "[/THINK]", "</s>", '[TOOL_CALLS]add[ARGS]{"a": 2}'),
    Template("mistralai/Magistral-Small-2509", "[INST]2+2?[/INST]", None, "[THINK]", "[/THINK]", "</s>", '[TOOL_CALLS]add[ARGS]{"a": 2}'),
    Template("ByteDance-Seed/Seed-OSS-36B-Instruct", "<seed:bos>user\n2+2?<seed:eos><seed:bos>assistant\n", "<seed:bos>user\n2+2?<seed:eos><seed:bos>assistant\n<seed:think><seed:cot_budget_reflect>None.</seed:cot_budget_reflect></seed:think>", "<seed:think>", "</seed:think>\n", "<seed:eos>", "<seed:tool_call>\n<function=add>\n</function>\n</seed:tool_call>", "<seed:eos><seed:bos>tool\n4<seed:eos><seed:bos>assistant\n<seed:think>"),
    Template("allenai/Olmo-3-32B-Think", IM + "<think>", None, "", "</think>", "", "<function_calls>\nadd(a=2)\n</function_calls>"),
    Template("tencent/Hunyuan-A13B-Instruct", "<|startoftext|>2+2?<|extra_0|>", None, "<think>\n", "\n</think>\n<answer>\n", "\n</answer>"),
    Template("tencent/Hy3", HY + "<think:opensource>", HY + "<think:opensource></think:opensource>", "", "</think:opensource>", "", "<tool_calls:opensource>\n<tool_call:opensource>add<tool_sep:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>"),
    Template("tencent/HY-4", "2+2?\n<think:6124c78e>", None, "", "</think:6124c78e>", "", "<tool_calls:6124c78e>\n<tool_call:6124c78e>add</tool_call:6124c78e>\n</tool_calls:6124c78e>"),
    Template("CohereLabs/command-a-reasoning-08-2025", COHERE + "<|START_THINKING|>", COHERE + "<|START_THINKING|><|END_THINKING|>", "", "<|END_THINKING|><|START_RESPONSE|>", "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", '<|START_ACTION|>[\n    {"tool_name": "add"}\n]<|END_ACTION|>', direct="<|START_RESPONSE|>"),
    Template("CohereLabs/command-a-plus-05-2026", COHERE + "<|START_THINKING|>", COHERE + "<|START_THINKING|><|END_THINKING|>", "", "<|END_THINKING|><|START_TEXT|>", "<|END_TEXT|>", '<|START_ACTION|>[\n    {"tool_name": "add"}\n]<|END_ACTION|>', direct="<|START_TEXT|>"),
    Template("swiss-ai/Apertus-8B-Instruct-2509", "<|user_start|>2+2?<|user_end|><|assistant_start|>", None, "<|inner_prefix|>", "<|inner_suffix|>", "<|assistant_end|>"),
    Template("ServiceNow-AI/Apriel-1.6-15b-Thinker", "<|begin_user|>\n2+2?\n<|begin_assistant|>\nHere are my reasoning steps:\n", None, "", "\n[BEGIN FINAL RESPONSE]\n", "\n<|end|>"),
    Template("ServiceNow-AI/Apriel-1.5-15b-Thinker", "<|user|>\n2+2?\n<|end|>\n<|assistant|>\n", None, "Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n", "\n[END FINAL RESPONSE]\n<|end|>"),
    Template("ibm-granite/granite-3.2-8b-instruct", GRANITE, None, "Here is my thought process:\n\n", "\n\nHere is my response:\n\n"),
    Template("ibm-granite/granite-3.3-8b-instruct", GRANITE, None, "<think>", "</think>\n<response>", "</response>"),
    Template("ibm-granite/granite-4.2-8b", GRANITE + "<think>\n", GRANITE + "<think></think>", "", "\n</think>\n", "", XML_CALL),
    Template("upstage/Solar-Open-100B", SOLAR, SOLAR + "<|think|><|end|><|begin|>assistant", "<|think|>", "<|end|><|begin|>assistant<|content|>", "<|end|>", "<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>c1<|tool_call:end|><|calls|>", "<|begin|>tool<|tool_response|>4<|end|><|begin|>assistant<|think|>", direct="<|content|>"),
    Template("upstage/Solar-Open2", "<|im:start|>assistant<|im:content|><|think:start|>", "<|im:start|>assistant<|im:content|><|think:start|><|think:end|>", "", "<|think:end|>", "<|im:end|>", "<|tool_call:start|>add\n<|tool_call:end|>"),
    Template("LLM360/K2-Horizon", "2+2?\n<ifm|think_fast>", None, "", "</ifm|think_fast>", "", "<ifm|tool_calls><ifm|tool_call>add</ifm|tool_call></ifm|tool_calls>"),
    Template("meituan-longcat/LongCat-Flash-Thinking", "<longcat_user>2+2? /think_on <longcat_assistant><longcat_think>\n", None, "", "\n</longcat_think>\n", "</longcat_s>", '<longcat_tool_call>{"name": "add"}</longcat_tool_call>'),
    Template("pfnet/plamo-3-nict-31b", "2+2?\n", None, "<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>", "", "<|plamo:begin_tool_requests:plamo|>x<|plamo:end_tool_requests:plamo|>"),
    Template("FreedomIntelligence/openPangu-R-7B", "2+2?\n", None, "[unused16]", "[unused17]", "[unused10]"),
    Template("naver-hyperclovax/HyperCLOVAX-SEED-Think-14B", IM.rstrip() + "/think\n", IM, "", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|><|endofturn|>"),
    Template("naver-hyperclovax/HyperCLOVAX-SEED-Think-14B", IM.rstrip(), None, "/think\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    Template("AIDC-AI/Marco-o1", IM, None, "<Thought>", "</Thought>\n<Output>", "</Output>"),
    Template("simplescaling/s1.1-32B", IM, None, "<|im_start|>think\n", "\n<|im_start|>answer\n"),
    Template("stepfun-ai/Step-3.5-Flash", IM + "<think>\n", None, "", "\n</think>\n", "", XML_CALL, IM_TOOL),
    Template("inclusionAI/Ling-3.0-flash", "<role>HUMAN</role>2+2?<|role_end|><role>ASSISTANT</role>\n<think>", "<role>HUMAN</role>2+2?<|role_end|><role>ASSISTANT</role>\n<think></think>", "", "</think>", "<|role_end|>", GLM_CALL, "<|role_end|><role>OBSERVATION</role>4<|role_end|><role>ASSISTANT</role>\n<think>"),
    Template("LiquidAI/LFM2.5-8B-A1B", IM, None, "<think>", "</think>", "<|im_end|>", "<|tool_call_start|>[add(a=2)]<|tool_call_end|>"),
    Template("poolside/Laguna-S-2.1", "<user>2+2?</user>\n<assistant><think>", "<user>2+2?</user>\n<assistant></think>", "", "</think>", "</assistant>", GLM_CALL),
    Template("poolside/Laguna-XS-2.1", "<user>\n2+2?\n</user>\n<assistant>\n<think>", "<user>\n2+2?\n</user>\n<assistant>\n</think>", "\n", "\n</think>\n", "\n</assistant>", GLM_CALL),
    Template("iFlytek/Spark2.5", "<｜start▁of▁sentence｜><|User|>2+2?<｜end▁of▁sentence｜><｜start▁of▁sentence｜><|Bot|><think>", "<｜start▁of▁sentence｜><|Bot|></think>", "", "</think>"),
    Template("RekaAI/reka-edge-2603", "human: 2+2?\n\n<sep>assistant: <think>\n", "human: 2+2?\n\n<sep>assistant:", "", "\n</think>\n\n", "\n\n<sep>"),
    Template("speakleash/Bielik-11B-v3.0-Instruct", IM + "<think>\n", IM, "", "\n</think>\n", "<|im_end|>"),
    Template("meta-models/Muse-Glimmer-30B", MUSE, None, " to=self<|message|>", "<|eom|><|start|>assistant to=user<|message|>", "<|eot|>", "<|eom|><|start|>assistant to=add<|message|><atem:function_calls>\n</atem:function_calls><|eot|>", "<|start|>tool add<|message|>4<|eot|><|start|>assistant to=self<|message|>", direct=" to=user<|message|>"),
    Template("thinkingmachines/Inkling", "<|message_user|><|content_text|>2+2?<|end_message|><|message_model|>", None, "<|content_thinking|>", "<|end_message|><|message_model|><|content_text|>", "<|end_message|>", '<|end_message|><|message_model|><|content_invoke_tool_json|>{"name":"add"}<|end_message|>', "<|message_tool|><|content_text|>4<|end_message|><|message_model|><|content_thinking|>", direct="<|content_text|>"),
    Template("LGAI-EXAONE/EXAONE-Deep-7.8B", "[|user|]2+2?\n[|assistant|]<thought>\n", None, "", "\n</thought>\n\n", "[|endofturn|]"),
    Template("LGAI-EXAONE/EXAONE-4.0-32B", "[|user|]\n2+2?[|endofturn|]\n[|assistant|]\n<think>\n", "[|user|]\n2+2?[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n", "", "\n</think>\n\n"),
    Template("baidu/ERNIE-4.5-21B-A3B-Thinking", IM + "<think>\n", None, "", "\n</think>\n\n<response>\n", "\n</response>\n"),
    Template("HuggingFaceTB/SmolLM3-3B", IM, IM + "<think>\n\n</think>\n", "<think>\n", "\n</think>\n"),
    Template("XiaomiMiMo/MiMo-VL-7B-RL", IM, None, "<think>\n", "\n</think>\n", "", JSON_CALL),
    Template("openbmb/MiniCPM5-1B", IM + "<think>\n", IM + "<think>\n\n</think>\n\n", "", "\n</think>\n\n"),
    Template("open-thoughts/OpenThinker-7B", IM, None, "<|begin_of_thought|>\n\n", "\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n", "\n\n<|end_of_solution|>"),
]  # fmt: skip
T = "Two and two. Wait, four."
