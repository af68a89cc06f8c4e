#!/usr/bin/env python3
"""flood.py ADDRESS PATH RATE SECONDS: ask at a pace that does not wait for answers.

A process of its own, so that it takes nothing from the other clients. It prints, as JSON, how many
requests were sent, when the last one was and, for each status (0: no answer), how many had it and
how long they took.
"""

import asyncio
import json
import sys
import time

TIMEOUT_SECONDS = 70


async def ask(address: str, path: str, answers: list) -> None:
    """Send one request on a connection of its own."""
    began, status = time.monotonic(), 0
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(address, 80)
            writer.write(request.encode())
            answer = await reader.read()
            status = int(answer.split(b" ", 2)[1]) if answer else 0
            writer.close()
    except (OSError, TimeoutError):
        pass
    answers.append((status, time.monotonic() - began))


async def flood(address: str, path: str, rate: int, seconds: int) -> dict:
    """Send `rate` requests in each second; return what came of them."""
    answers, tasks, began = [], set(), time.monotonic()
    for number in range(rate * seconds):
        if (wait := began + number / rate - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        elif number % 50 == 0:
            await asyncio.sleep(0)  # the answers have a right to be read
        task = asyncio.create_task(ask(address, path, answers))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if time.monotonic() - began > seconds:
            break
    sent, last = number + 1, time.monotonic()
    await asyncio.gather(*tasks)
    statuses = {}
    for status, took in answers:
        statuses.setdefault(status, []).append(took)
    return {
        "sent": sent,
        "per_second": sent / (last - began),
        "last": last,  # by a clock that all processes of a machine share
        "statuses": {
            status: {
                "number": len(times),
                "median": sorted(times)[len(times) // 2],
                "p99": sorted(times)[len(times) * 99 // 100],
                "longest": max(times),
            }
            for status, times in statuses.items()
        },
    }


if __name__ == "__main__":
    address, path, rate, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(flood(address, path, int(rate), int(seconds)))))
