"""The verifier of sdk/typescript as a program."""

import asyncio
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "sdk" / "typescript"


async def said(*command: str, cwd: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
