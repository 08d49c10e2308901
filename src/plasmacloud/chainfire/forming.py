"""The shell around `formation`: machines that were started with --bootstrap-expect talk until they agree.

Each machine serves one call on its client port, in which both sides tell what they know, and calls everybody it has
heard of several times a second. The promise is on disk before it is told to anybody.
"""

import asyncio
from collections.abc import Iterable

import msgspec
from google.protobuf.message import DecodeError

from plasmacloud.base.address import Address, parse_address
from plasmacloud.base.errors import ConfigError
from plasmacloud.base.logging import get_logger
from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.datadir import PROMISE_NOTE, write_note
from plasmacloud.chainfire.formation import Decision, Founders, Machine, Report, Step, decide
from plasmacloud.rpc.channel import Channel
from plasmacloud.rpc.proto import formation_pb2
from plasmacloud.rpc.routes import Call
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import RpcError, StatusCode
from plasmacloud.storage.disk import Disk
from plasmacloud.storage.small_files import read_file

EXCHANGE = "/plasmacloud.chainfire.v1.Formation/Exchange"
_ROUND_S = 0.2
_CALL_S = 1.0
_SETTLED_S = 1.0  # nobody new was heard of for so long: now a proposal is worth making
_REMIND_S = 10.0
_MAX_MACHINES = 256  # that are asked, whatever anybody says who else there is

log = get_logger("formation")


class Formed(msgspec.Struct, frozen=True):
    """The outcome: with whom to found the cluster, or else whom (client addresses) to ask to join it."""

    founders: Founders = ()
    join: tuple[Address, ...] = ()


def register_member(table: ServiceTable, config: ServerConfig, *, disk: Disk) -> None:
    """A member answers machines that are still looking for a cluster: here is one."""
    own = Machine(config.member.name, config.member.peer, _client_address(config))
    report = Report(own, expect=config.expect, promised=_read_promise(config, disk), member=True)

    def exchange(call: Call, _body: bytes) -> None:
        call.reply(_encode(report, [own]).SerializeToString())

    table.unary(EXCHANGE, exchange)


async def form(config: ServerConfig, *, disk: Disk) -> Formed:
    """Talk until it is clear with whom this machine founds a cluster, or which one it joins. Waits for ever: whoever
    started only some of the machines sees in the log who is missing. Raises `ConfigError`."""
    forming = _Forming(config, disk)
    await forming.listen()
    try:
        return await forming.agree()
    finally:
        await forming.close()


class _Forming:
    def __init__(self, config: ServerConfig, disk: Disk) -> None:
        self._config = config
        self._disk = disk
        own = Machine(config.member.name, config.member.peer, _client_address(config))
        self.report = Report(own, config.expect, promised=_read_promise(config, disk))
        self._known: dict[Address, str] = {own.client: own.name}  # "" while only the address is known
        self._known.update(dict.fromkeys((seed for seed in config.seeds if seed != own.client), ""))
        self._reports: dict[str, Report] = {}
        self._channels: dict[Address, Channel] = {}
        self._loop = asyncio.get_running_loop()
        self._news_at = self._loop.time()
        self._said = ""
        self._said_at = 0.0
        self._conflict: ConfigError | None = None
        table = ServiceTable()
        table.unary(EXCHANGE, self._exchange)
        self._server = Server(table)
        self._tls = config.security.as_client()

    async def listen(self) -> None:
        address = self._config.listen_client
        try:
            tls = self._config.security.for_clients()
            await self._server.start(address.host, address.port, tls=tls)
        except OSError as error:
            raise ConfigError(
                f"cannot listen for clients on {address}: {error.strerror}",
                hint="another process uses the port, or the address is not this machine's; see --listen-client",
            ) from error

    async def agree(self) -> Formed:
        while True:
            others = [address for address in self._known if address != self.report.sender.client]
            await asyncio.gather(*(self._ask(address) for address in others))
            if self._conflict is not None:
                raise self._conflict
            decision = decide(self.report, self._reports)
            if decision.step is Step.FOUND:
                log.info("founding the cluster", founders=", ".join(m.name for m in decision.founders))
                await self._tell_everybody(others)
                return Formed(founders=decision.founders)
            if decision.step is Step.JOIN:
                return Formed(join=tuple(machine.client for machine in decision.founders))
            self._act(decision)
            await asyncio.sleep(_ROUND_S)

    async def _tell_everybody(self, others: Iterable[Address]) -> None:
        """One more round, so that the others see our promise too before this port is closed for a moment."""
        for _ in range(2):
            await asyncio.gather(*(self._ask(address) for address in others))
            await asyncio.sleep(_ROUND_S)

    def _act(self, decision: Decision) -> None:
        if decision.step is Step.PROPOSE and self._loop.time() - self._news_at >= _SETTLED_S:
            self.report = self.report._replace(proposed=decision.founders)
        elif decision.step is Step.PROMISE:
            write_note(self._config.data_dir, PROMISE_NOTE, msgspec.json.encode(decision.founders), disk=self._disk)
            self.report = self.report._replace(promised=decision.founders)
        if decision.why != self._said or self._loop.time() >= self._said_at + _REMIND_S:
            self._said, self._said_at = decision.why, self._loop.time()
            log.info("forming a cluster", step=decision.step.value, why=decision.why)

    def _exchange(self, call: Call, body: bytes) -> None:
        try:
            self._hear(formation_pb2.FormationReport.FromString(body))
        except (DecodeError, ValueError, ConfigError) as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"chainfire: {error}") from error
        call.reply(self._own_report().SerializeToString())

    async def _ask(self, address: Address) -> None:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = Channel(address.host, address.port, tls=self._tls)
        try:
            answer = await channel.unary(EXCHANGE, self._own_report().SerializeToString(), timeout=_CALL_S)
            self._hear(formation_pb2.FormationReport.FromString(answer))
        except (RpcError, DecodeError, ValueError, ConfigError) as error:
            log.debug("no answer", address=str(address), error=str(error))

    def _own_report(self) -> formation_pb2.FormationReport:
        return _encode(self.report, [self.report.sender, *(report.sender for report in self._reports.values())])

    def _hear(self, message: formation_pb2.FormationReport) -> None:
        report = Report(
            sender=_machine(message.sender),
            expect=message.expect,
            proposed=tuple(_machine(founder) for founder in message.proposed),
            promised=tuple(_machine(founder) for founder in message.promised),
            member=message.member,
        )
        own = self.report.sender
        if report.sender == own:
            return
        known = self._reports.get(report.sender.name)
        if report.sender.name == own.name or (known is not None and known.sender != report.sender):
            other = own if known is None else known.sender
            self._conflict = ConfigError(
                f"two machines are called {report.sender.name}: {other.client} and {report.sender.client}",
                hint="give every machine a --name of its own",
            )
            return
        if known is None:
            if len(self._reports) >= _MAX_MACHINES:
                raise ConfigError(f"more than {_MAX_MACHINES} machines want to found this cluster")
            self._news_at = self._loop.time()
        self._reports[report.sender.name] = report
        for machine in (report.sender, *(_machine(founder) for founder in message.known)):
            if len(self._known) < _MAX_MACHINES:
                self._known.setdefault(machine.client, machine.name)

    async def close(self) -> None:
        await self._server.close(0.1)
        for channel in self._channels.values():
            await channel.close()


def _client_address(config: ServerConfig) -> Address:
    return parse_address(config.advertise_client[0], what="--advertise-client")


def _read_promise(config: ServerConfig, disk: Disk) -> Founders:
    try:
        content = read_file(config.data_dir / PROMISE_NOTE, disk=disk)
        return tuple(
            Machine(name, Address(*peer), Address(*client))
            for name, peer, client in msgspec.json.decode(
                content, type=list[tuple[str, tuple[str, int], tuple[str, int]]]
            )
        )
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"{config.data_dir / PROMISE_NOTE} cannot be read: {error}",
            hint="the file says with whom this machine founds a cluster; if the cluster runs without it, remove the "
            "data directory and join the cluster",
        ) from error


def _encode(report: Report, known: Iterable[Machine]) -> formation_pb2.FormationReport:
    return formation_pb2.FormationReport(
        sender=_founder(report.sender),
        expect=report.expect,
        known=[_founder(machine) for machine in known],
        proposed=[_founder(machine) for machine in report.proposed],
        promised=[_founder(machine) for machine in report.promised],
        member=report.member,
    )


def _founder(machine: Machine) -> formation_pb2.Founder:
    return formation_pb2.Founder(name=machine.name, peer=str(machine.peer), client=str(machine.client))


def _machine(founder: formation_pb2.Founder) -> Machine:
    """Raises `ConfigError` for addresses that are none."""
    return Machine(founder.name, parse_address(founder.peer), parse_address(founder.client))
