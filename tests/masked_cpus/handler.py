"""The handler for SIGILL, as machine code of x86-64, and the table of masks behind it.

The kernel calls it as ``handler(signal, info, context)``: rdi, rsi, rdx. It looks at the
instruction that failed. If that is ``ud1``, it executes ``cpuid`` with the registers that the
instruction found, clears bits by the table, puts the answer where the return from the signal
loads the registers from, and steps over the two bytes. Anything else is a real fault: ``hlt``,
which is forbidden to a process, ends it.

Offsets into the context are those of ``ucontext_t`` (Linux, x86-64): 40 bytes up to the registers,
then 8 each: rbx 128, rdx 136, rax 144, rcx 152, rip 168. It touches, beside what it restores, only
registers that a called function may, needs no stack but one word, and has no relocation.
"""

from __future__ import annotations

import struct

from tests.masked_cpus.levels import Feature

ANY = 0xFFFFFFFF
_ROW = struct.Struct("<6I")

_PARTS = (
    # 00                                                 start:
    "53",  #                   push rbx                  the only register that cpuid takes away
    "49 89 d0",  #             mov  r8, rdx              the context
    "49 8b 80 a8 00 00 00",  # mov  rax, [r8+168]        rip
    "66 81 38 0f b9",  #       cmp  word [rax], 0xb90f   ud1?
    "74 01",  #                je   +1
    "f4",  #                   hlt
    # 13
    "41 8b 80 90 00 00 00",  # mov  eax, [r8+144]        the leaf that is asked for
    "41 8b 88 98 00 00 00",  # mov  ecx, [r8+152]        and the subleaf
    "41 89 c1",  #             mov  r9d, eax
    "41 89 ca",  #             mov  r10d, ecx
    "0f a2",  #                cpuid
    "4c 8d 1d 54 00 00 00",  # lea  r11, [rip+0x54]      the table, at 0x84
    # 30                                                 row:
    "41 83 3b ff",  #          cmp  dword [r11], -1      the end of the table?
    "74 28",  #                je   done
    "45 39 0b",  #             cmp  [r11], r9d           another leaf?
    "75 1d",  #                jne  next
    "45 39 53 04",  #          cmp  [r11+4], r10d        this subleaf,
    "74 07",  #                je   mask
    "41 83 7b 04 ff",  #       cmp  dword [r11+4], -1    or any?
    "75 10",  #                jne  next
    # 48                                                 mask:
    "41 23 43 08",  #          and  eax, [r11+8]
    "41 23 5b 0c",  #          and  ebx, [r11+12]
    "41 23 4b 10",  #          and  ecx, [r11+16]
    "41 23 53 14",  #          and  edx, [r11+20]
    # 58                                                 next:
    "49 83 c3 18",  #          add  r11, 24
    "eb d2",  #                jmp  row
    # 5e                                                 done:
    "49 89 80 90 00 00 00",  # mov  [r8+144], rax        cpuid and "and" clear the upper halves
    "49 89 98 80 00 00 00",  # mov  [r8+128], rbx
    "49 89 88 98 00 00 00",  # mov  [r8+152], rcx
    "49 89 90 88 00 00 00",  # mov  [r8+136], rdx
    "49 83 80 a8 00 00 00 02",  # add qword [r8+168], 2  behind the instruction
    "5b",  #                   pop  rbx
    "c3",  #                   ret                       to the C library, which calls sigreturn
)
CODE = bytes.fromhex("".join(_PARTS))


def table(features: tuple[Feature, ...]) -> bytes:
    """Rows of leaf, subleaf and what is left of eax, ebx, ecx, edx; then an end."""
    rows: dict[tuple[int, int], dict[str, int]] = {}
    for leaf, subleaf, register, bit in features:
        key = (leaf, ANY if subleaf is None else subleaf)
        row = rows.setdefault(key, dict.fromkeys(("eax", "ebx", "ecx", "edx"), ANY))
        row[register] &= ~(1 << bit)
    packed = b"".join(_ROW.pack(*key, *row.values()) for key, row in rows.items())
    return packed + _ROW.pack(*[ANY] * 6)
